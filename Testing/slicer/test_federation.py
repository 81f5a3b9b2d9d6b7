"""The Join a federation section: kit, label set, cases, connection, consent, and every reason why not yet."""

import socket
import ssl
import threading

import numpy as np
import pytest
import slicer
from children import kit_parts, write_kit
from joining import choose_organ, connected, consent_given, finish_check, make_ready
from scenes import FakeProcess, add_ct, make_window, process_events
from SegVizSlicerLib import SiteCases
from SegVizSlicerLib.Connection import connectionProblem
from SegVizSlicerLib.ConsentDialog import ConsentDialog, consentDate
from SegVizSlicerLib.Parameters import Device
from SegVizSlicerLib.Policy import Policy, readPolicy
from SegVizSlicerLib.SiteKit import readKit


class TestWhyNotJoin:
    def test_each_reason_in_turn_until_join_is_ready(self, window, kit, user_folder, monkeypatch):
        ui = window.ui

        def reason():
            assert not ui.joinButton.enabled
            return ui.joinButton.toolTip

        assert reason() == "Choose a label set."
        choose_organ(window, "Liver")
        assert reason() == "Add training cases."
        ui.casesPath.setCurrentPath(str(user_folder))
        assert reason() == "Check the cases first."
        finish_check(window, "label on another grid", "no label", "")
        assert reason() == "2 cases have problems: see the table."
        finish_check(window, "no label")
        assert reason() == "1 case has a problem: see the table."
        finish_check(window, "")
        assert reason() == "Enter the coordinator address."
        ui.addressEdit.setText("127.0.0.1:9443")
        assert reason() == "Choose the coordinator's CA certificate."
        ui.kitPath.setCurrentPath(str(kit))
        choose_organ(window, "Liver")
        assert reason() == "Test the connection first."
        connected(window, monkeypatch)
        assert reason() == "Give consent first."
        consent_given(window)
        assert ui.joinButton.enabled

    def test_a_changed_label_set_asks_for_check_and_consent_again(self, window, kit, user_folder, monkeypatch):
        make_ready(window, kit, user_folder, monkeypatch)
        assert window.ui.joinButton.enabled
        choose_organ(window, "Spleen")
        assert window.ui.joinButton.toolTip == "Check the cases first."
        finish_check(window, "")
        assert window.ui.joinButton.toolTip == "Give consent first."

    def test_a_changed_address_asks_for_the_connection_again(self, window, kit, user_folder, monkeypatch):
        make_ready(window, kit, user_folder, monkeypatch)
        window.ui.addressEdit.setText("127.0.0.1:9999")
        assert window.ui.joinButton.toolTip == "Test the connection first."

    def test_the_small_buttons_say_why_too(self, window):
        assert window.ui.checkCasesButton.toolTip == "Choose a label set."
        assert window.ui.testConnectionButton.toolTip == "Enter the coordinator address."
        assert window.ui.consentButton.toolTip == "Choose a label set."
        assert window.ui.withdrawButton.toolTip == "There is no consent to withdraw."
        choose_organ(window, "Liver")
        assert window.ui.checkCasesButton.toolTip == "Choose a cases folder first."
        assert window.ui.addCaseButton.toolTip == "Choose a cases folder first."


class TestLabelSet:
    def test_several_organs_with_one_left_out(self, window):
        choose_organ(window, "Several of these")
        window.ui.labelTable.item(1, 1).setText("")
        assert window.federation.labelSet.organs() == ("liver", "kidneys", "pancreas")

    def test_values_and_names_of_the_site(self, window):
        choose_organ(window, "Kidneys")
        window.ui.labelTable.item(0, 1).setText("2, 3, Niere")
        (entry,) = window.federation.labelSet.annotations()
        assert entry == SiteCases.Annotation("kidneys", (2, 3), ("Niere",))
        assert SiteCases.labelValues([entry]) == {"kidneys": (2, 3)}

    def test_another_organ_gets_a_value_of_its_own(self, window):
        choose_organ(window, "Another organ...")
        assert window.federation.labelSet.organs() == ()
        window.ui.labelTable.item(0, 0).setText("stomach")
        window.ui.labelTable.item(0, 1).setText("Magen")
        assert SiteCases.labelValues(window.federation.labelSet.annotations()) == {"stomach": (7,)}

    def test_a_value_of_zero_is_refused(self):
        with pytest.raises(ValueError, match="liver: a label value is 1 or more, found 0"):
            SiteCases.parseAnnotation("liver", "0")


class TestAddCase:
    def pair(self, organ="Liver", shape=(20, 48, 64)):
        ct = add_ct(shape, name="Müller, Hans")
        labels = np.zeros(shape, np.uint8)
        labels[4:9, 10:20, 12:30] = 1
        lm = slicer.util.addVolumeFromArray(labels, np.diag([-0.8, -1.1, 3, 1.0]), "l", "vtkMRMLLabelMapVolumeNode")
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S")
        node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
        slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(lm, node)
        slicer.mrmlScene.RemoveNode(lm)
        node.GetSegmentation().GetNthSegment(0).SetName(organ)
        return ct, node, labels

    def test_the_shown_pair_becomes_a_case_with_the_values_of_the_site(self, tmp_path):
        ct, node, labels = self.pair("Leber")
        image = SiteCases.addCase(tmp_path, ct, node, [SiteCases.Annotation("liver", (6,), ("leber",))])
        assert image.name == "M_ller_Hans_001.nrrd"
        assert image.name.isascii()
        found = slicer.util.loadVolume(str(tmp_path / "labels" / image.name), {})
        assert (slicer.util.arrayFromVolume(found) == labels * 6).all()
        again = SiteCases.addCase(tmp_path, ct, node, [SiteCases.Annotation("liver", (6,), ("leber",))])
        assert again.name == "M_ller_Hans_002.nrrd"

    def test_a_segmentation_of_another_grid_is_refused(self, tmp_path):
        ct, node, _labels = self.pair()
        other = add_ct((30, 40, 50), name="Other")
        with pytest.raises(ValueError, match="S was drawn on Müller, Hans, which lies on another grid than Other"):
            SiteCases.addCase(tmp_path, other, node, [SiteCases.Annotation("liver", (1,), ("liver",))])
        assert ct is not None

    def test_a_segmentation_without_the_organ_is_refused(self, tmp_path):
        ct, node, _labels = self.pair("Herz")
        with pytest.raises(ValueError, match="S has no segment of this label set: expected liver, found Herz"):
            SiteCases.addCase(tmp_path, ct, node, [SiteCases.Annotation("liver")])

    def test_a_transformed_segmentation_is_refused(self, tmp_path):
        ct, node, _labels = self.pair()
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        node.SetAndObserveTransformNodeID(transform.GetID())
        with pytest.raises(ValueError, match="S is under a transform: harden it first"):
            SiteCases.addCase(tmp_path, ct, node, [SiteCases.Annotation("liver")])

    def test_nothing_shown_is_said(self, tmp_path):
        with pytest.raises(ValueError, match="Show a CT and a segmentation first"):
            SiteCases.addCase(tmp_path, None, None, [])


def test_the_table_of_cases_says_why_not(window, user_folder):
    choose_organ(window, "Liver")
    window.ui.casesPath.setCurrentPath(str(user_folder))
    finish_check(window, "", "c1: expected a label for this image, found none.")
    table = window.ui.casesTable
    assert [table.item(row, 3).text() for row in range(2)] == ["ok", "c1: expected a label for this image, found none."]
    assert window.ui.federationStatus.text == "1 of 2 cases are fit for training."
    arguments = FakeProcess.started[-1].arguments
    assert arguments == ["check", str(user_folder), "--label-set", "liver", "--label-values", "liver=1"]


class TestConsent:
    def test_the_dialog_is_itemised_and_waits_for_the_check_box(self, kit):
        dialog = ConsentDialog(readKit(kit), ("liver",))
        text = "\n".join(label.text for label in dialog.findChildren("QLabel"))
        for words in (
            "demo at 127.0.0.1:9443",
            "Certificate ",
            "Model weights",
            "Loss and Dice",
            "Site name: north",
            "and its weights",
        ):
            assert words in text
        assert "Images, segmentations, DICOM tags, file names" in text
        assert "None from the coordinator: only SegViz as installed here is run." in text
        agree = dialog.findChild("QPushButton", "agreeButton")
        assert not agree.enabled
        assert agree.toolTip == "Tick the box above first."
        assert not any(button.default or button.autoDefault for button in dialog.findChildren("QPushButton"))
        box = dialog.findChild("QCheckBox", "authorisedCheckBox")
        assert box.text == "I am authorised to take part for my site"
        box.checked = True
        assert agree.enabled

    def test_it_is_stored_with_its_date_and_can_be_withdrawn(self, window, kit, user_folder, monkeypatch):
        make_ready(window, kit, user_folder, monkeypatch)
        assert window.ui.consentLabel.text.startswith("Given on 20")
        window.ui.withdrawButton.click()
        assert window.ui.consentLabel.text == "Not given."
        assert window.ui.federationStatus.text == "Consent withdrawn; the site's state was deleted."
        assert window.ui.joinButton.toolTip == "Give consent first."

    def test_another_coordinator_asks_again(self, window, kit, user_folder, monkeypatch):
        make_ready(window, kit, user_folder, monkeypatch)
        other = readKit(write_kit(user_folder / "other.zip", address="elsewhere:9443"))
        assert consentDate(readKit(kit), ("liver",)) != ""
        assert consentDate(other, ("liver",)) == ""
        assert consentDate(readKit(kit), ("liver", "spleen")) == ""

    def test_it_is_not_given_by_slicers_testing_mode(self, window, kit, monkeypatch):
        window.ui.kitPath.setCurrentPath(str(kit))
        choose_organ(window, "Liver")
        monkeypatch.setattr(slicer.app, "_testing", True)
        monkeypatch.setattr(ConsentDialog, "exec_", lambda self: 0)
        window.ui.consentButton.click()
        assert window.ui.consentLabel.text == "Not given."


class TestConnection:
    @pytest.fixture
    def server(self, tmp_path):
        """A TLS server with the certificate of the kit's authority."""
        for name in ("server.crt", "server.key"):
            (tmp_path / name).write_bytes(kit_parts()[name])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
        listener = socket.create_server(("127.0.0.1", 0))

        def serve():
            while True:
                try:
                    plain, _address = listener.accept()
                    context.wrap_socket(plain, server_side=True).close()
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.close()

    @pytest.fixture
    def certificate(self):
        return kit_parts()["ca.crt"].decode()

    def test_the_right_coordinator(self, server, certificate):
        assert connectionProblem(server, certificate) == ""

    def test_another_authority(self, server):
        context = ssl.create_default_context()
        other = ssl.DER_cert_to_PEM_cert(context.get_ca_certs(binary_form=True)[0])
        problem = connectionProblem(server, other)
        assert problem.startswith("The coordinator's certificate does not belong to this kit (")

    def test_nobody_there(self, certificate):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        problem = connectionProblem(f"127.0.0.1:{port}", certificate)
        assert problem == (
            f"127.0.0.1:{port} refuses the connection: the coordinator is not running, or the port is wrong."
        )

    def test_no_such_computer(self, certificate):
        assert connectionProblem("no-such-host.invalid:9443", certificate) == (
            "There is no computer named no-such-host.invalid: check the address."
        )

    def test_a_proxy_on_the_way_is_named(self, certificate, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as free:
            proxy = f"127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://ann:secret@{proxy}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert connectionProblem("seg.hospital.test:9443", certificate) == (
            f"No connection to seg.hospital.test:9443 through the proxy {proxy}: Connection refused. "
            "The proxy must allow CONNECT to this port."
        )

    def test_a_proxy_that_refuses_is_quoted(self, certificate, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def refuse():
                client, _address = listener.accept()
                client.recv(4096)
                client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                client.close()

            threading.Thread(target=refuse, daemon=True).start()
            proxy = f"127.0.0.1:{listener.getsockname()[1]}"
            monkeypatch.setenv("HTTPS_PROXY", proxy)
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            problem = connectionProblem("seg.hospital.test:9443", certificate)
        assert problem == (
            f"No connection to seg.hospital.test:9443 through the proxy {proxy}: Tunnel connection failed: 403 "
            "Forbidden. The proxy must allow CONNECT to this port."
        )

    def test_another_service(self, certificate):
        with socket.create_server(("127.0.0.1", 0)) as plain:
            threading.Thread(target=lambda: plain.accept()[0].sendall(b"SSH-2.0\r\n" * 9), daemon=True).start()
            address = f"127.0.0.1:{plain.getsockname()[1]}"
            assert connectionProblem(address, certificate) == (
                f"{address} answers, but not as a coordinator: check the port."
            )

    def test_a_service_that_says_nothing(self, certificate, monkeypatch):
        monkeypatch.setattr("SegVizSlicerLib.Connection.PATIENCE_S", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            problem = connectionProblem(address, certificate)
        assert problem == f"{address} does not answer within 0 s: check the address and the firewall."

    def test_no_address(self, certificate):
        assert connectionProblem("coordinator", certificate) == "Expected host:port, found 'coordinator'."

    def test_the_window_waits_without_blocking(self, window, kit, server):
        window.ui.kitPath.setCurrentPath(str(kit))
        window.ui.addressEdit.setText(server)
        window.ui.testConnectionButton.click()
        assert window.ui.connectionLabel.text == f"Connecting to {server}..."
        process_events(lambda: "answers" in window.ui.connectionLabel.text)
        assert window.ui.connectionLabel.text == "The coordinator answers and its certificate is right."


class TestEstimate:
    def test_the_button_says_why_not_yet(self, window, kit, user_folder):
        button = window.ui.estimateButton
        assert button.toolTip == "Choose a label set."
        choose_organ(window, "Liver")
        assert button.toolTip == "Add training cases."
        window.ui.casesPath.setCurrentPath(str(user_folder))
        finish_check(window, "")
        assert button.toolTip == "Choose the site kit first."
        window.ui.kitPath.setCurrentPath(str(kit))
        choose_organ(window, "Liver")
        finish_check(window, "")
        assert button.enabled
        assert "Nothing leaves this computer." in button.toolTip

    def test_it_is_shown_until_something_in_it_changes(self, window, kit, user_folder):
        window.ui.kitPath.setCurrentPath(str(kit))
        choose_organ(window, "Liver")
        window.ui.casesPath.setCurrentPath(str(user_folder))
        finish_check(window, "")
        window.ui.coresSpinBox.setValue(1)
        window.ui.estimateButton.click()
        process = FakeProcess.started[-1]
        assert process.arguments[:3] == ["site", "estimate", str(kit)]
        assert process.arguments[-4:] == ["--cores", "1", "--device", "auto"]
        assert window.ui.joinButton.text == "Cancel"
        process.finish(sentence="About 10 s of training per round.")
        assert window.ui.estimateLabel.text == "About 10 s of training per round."
        window.parameters.device = Device.cpu
        window.updateGUI()
        assert window.ui.estimateLabel.text == ""
        window.ui.estimateButton.click()
        assert FakeProcess.started[-1].arguments[-2:] == ["--device", "cpu"]


class TestPolicy:
    def test_the_address_and_the_certificate_are_locked_with_the_reason(self, user_folder, kit):
        (user_folder / "ca.crt").write_bytes(kit_parts()["ca.crt"])
        policy = Policy(address="seg.hospital.org:9092", certificate=str(user_folder / "ca.crt"))
        window = make_window(user_folder, policy=policy)
        assert window.ui.addressEdit.text == "seg.hospital.org:9092"
        for field in (window.ui.addressEdit, window.ui.certificatePath):
            assert not field.enabled
            assert field.toolTip == "Set by your administrator."
        window.ui.kitPath.setCurrentPath(str(kit))
        assert window.ui.addressEdit.text == "seg.hospital.org:9092"

    def test_federation_can_be_barred(self, user_folder):
        window = make_window(user_folder, policy=Policy(federation=False))
        assert not window.ui.joinButton.enabled
        assert window.ui.joinButton.toolTip == "Set by your administrator."
        assert not window.ui.kitPath.enabled

    def test_the_models_folder_can_be_fixed(self, user_folder, tmp_path):
        from scenes import write_model

        write_model(tmp_path / "fixed" / "m.safetensors", study="fixed")
        window = make_window(user_folder, policy=Policy(models=str(tmp_path / "fixed")))
        assert window.ui.modelSelector.currentText.startswith("fixed")
        assert not window.ui.importModelButton.enabled
        assert window.ui.importModelButton.toolTip == "Set by your administrator."

    def test_it_is_read_from_the_module_folder_or_the_environment(self, tmp_path, monkeypatch):
        assert readPolicy(tmp_path) == Policy()
        (tmp_path / "segviz-policy.json").write_text('{"address": "a:1"}')
        assert readPolicy(tmp_path).address == "a:1"
        (tmp_path / "other.json").write_text('{"federation": false}')
        monkeypatch.setenv("SEGVIZ_POLICY", str(tmp_path / "other.json"))
        assert readPolicy(tmp_path) == Policy(federation=False)

    def test_a_variable_that_names_no_file_bars_federation(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SEGVIZ_POLICY", str(tmp_path / "away.json"))
        policy = readPolicy(tmp_path)
        assert not policy.federation
        assert "away.json cannot be used" in policy.problem

    def test_a_file_that_cannot_be_read_bars_federation_and_says_so(self, tmp_path):
        for text in ("{", '{"adress": "a:1"}', '{"federation": "no"}'):
            (tmp_path / "segviz-policy.json").write_text(text)
            policy = readPolicy(tmp_path)
            assert not policy.federation
            assert "cannot be used" in policy.problem
            assert policy.problem.endswith("ask your administrator.")
