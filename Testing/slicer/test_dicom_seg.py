"""The tags of the segments make a DICOM SEG that other programs read: written and read back with highdicom."""

import numpy as np
import pytest
import slicer
import vtk
from scenes import OBLIQUE, FakeProcess, add_ct, make_window, write_model

highdicom = pytest.importorskip("highdicom")

from pydicom import dcmread  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.sr.codedict import codes  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402

EXPECTED = {  # segment -> its code and modifier in pydicom's own dictionary of SNOMED CT
    "Liver": (codes.SCT.Liver, None),
    "Spleen": (codes.SCT.Spleen, None),
    "Pancreas": (codes.SCT.Pancreas, None),
    "Left kidney": (codes.SCT.Kidney, codes.SCT.Left),
    "Right kidney": (codes.SCT.Kidney, codes.SCT.Right),
}


def dicom_series(volume):
    """The slices of a volume node as DICOM CT images."""
    hu = slicer.util.arrayFromVolume(volume)
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ slicer.util.arrayFromVTKMatrix(matrix)
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    shared = Dataset()
    shared.update({"PatientName": "", "PatientID": "", "PatientBirthDate": "", "PatientSex": "", "AccessionNumber": ""})
    shared.update({"StudyID": "", "StudyDate": "", "StudyTime": "", "ReferringPhysicianName": "", "Modality": "CT"})
    shared.StudyInstanceUID, shared.SeriesInstanceUID = generate_uid(), generate_uid()
    shared.FrameOfReferenceUID, shared.SOPClassUID = generate_uid(), CTImageStorage
    shared.ImageOrientationPatient = [*(to_lps[:3, 0] / spacing[0]), *(to_lps[:3, 1] / spacing[1])]
    shared.PixelSpacing, shared.SliceThickness = [spacing[1], spacing[0]], spacing[2]
    shared.Rows, shared.Columns = hu.shape[1:]
    shared.SamplesPerPixel, shared.PhotometricInterpretation, shared.PixelRepresentation = 1, "MONOCHROME2", 1
    shared.BitsAllocated, shared.BitsStored, shared.HighBit = 16, 16, 15
    series = []
    for k, slice_hu in enumerate(hu):
        image = Dataset()
        image.update(shared)
        image.SOPInstanceUID, image.InstanceNumber = generate_uid(), k + 1
        image.ImagePositionPatient = list(to_lps[:3] @ (0, 0, k, 1))
        image.PixelData = slice_hu.astype(np.int16).tobytes()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        series.append(image)
    return series


def concept(text):
    """`SCT^10200004^Liver` of a terminology tag; None for `^^`."""
    scheme, value, meaning = text.split("^")
    return highdicom.sr.CodedConcept(value, scheme, meaning) if value else None


def description(number, segment):
    """A segment of DICOM SEG from nothing but the name, colour and tags of Slicer's segment."""

    def tag(name):
        value = vtk.reference("")
        assert segment.GetTag(name, value), name
        return str(value)

    _context, category, kind, modifier, *_rest = tag(slicer.vtkSegment.GetTerminologyEntryTagName()).split("~")
    found = highdicom.seg.SegmentDescription(
        number,
        segment.GetName(),
        concept(category),
        concept(kind),
        tag("DICOM.SegmentAlgorithmType"),
        highdicom.AlgorithmIdentificationSequence(
            tag("DICOM.SegmentAlgorithmName"), codes.DCM.ArtificialIntelligence, "1"
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*(round(255 * channel) for channel in segment.GetColor())),
    )
    if side := concept(modifier):
        found.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return found


def test_segments_become_a_dicom_seg_with_their_codes_and_voxels(user_folder, tmp_path):
    write_model(user_folder / "models" / "meta_model.safetensors")
    window, ct = make_window(user_folder), add_ct(matrix=OBLIQUE)
    window.ui.splitKidneysCheckBox.checked = True
    window.ui.applyButton.click()
    labels = np.zeros(slicer.util.arrayFromVolume(ct).shape, np.uint8)
    for index, value in enumerate((1, 2, 4, 5, 6)):
        labels[4:8, 8 + 7 * index : 14 + 7 * index, 10:15] = value
    FakeProcess.started[-1].finish(labels)
    node = window.ui.outputSelector.currentNode()
    segmentation, series = node.GetSegmentation(), dicom_series(ct)
    ids = list(segmentation.GetSegmentIDs())
    masks = [slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, ct) > 0 for segment_id in ids]
    highdicom.seg.Segmentation(
        series,
        np.stack(masks, axis=-1),
        "BINARY",
        [description(number, segmentation.GetSegment(name)) for number, name in enumerate(ids, 1)],
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="SegViz",
        manufacturer_model_name="SegViz",
        software_versions="1",
        device_serial_number="1",
    ).save_as(tmp_path / "organs.dcm")

    read = highdicom.seg.Segmentation.from_dataset(dcmread(tmp_path / "organs.dcm"))
    voxels = read.get_pixels_by_source_instance([image.SOPInstanceUID for image in series])
    found = {}
    for number in read.segment_numbers:
        entry = read.get_segment_description(number)
        assert entry.algorithm_type.value == "AUTOMATIC"
        modifier = entry.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence")
        found[entry.segment_label] = (
            entry.segmented_property_type,
            highdicom.sr.CodedConcept.from_dataset(modifier[0]) if modifier else None,
        )
        assert (voxels[..., number - 1] > 0).tolist() == masks[number - 1].tolist()
    assert found == EXPECTED
