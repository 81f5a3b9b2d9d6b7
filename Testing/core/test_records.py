import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from segviz_core.federation.guard import Rejected
from segviz_core.federation.packets import Packet
from segviz_core.federation.records import error_record, from_record, to_record
from segviz_core.federation.trainer_socket import ERRORS

PACKET = Packet(
    {"stage": "train", "round": 3, "learning_rate": 1e-3, "calibrate": True},
    {
        "update": {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T},
        "norm": {"norm.num_batches_tracked": np.array(7, dtype=np.int64)},
        "head/liver": {},
    },
    {"loss": 0.5, "dice/liver": 1},
)


def test_packet_survives_the_way_through_flower() -> None:
    found = from_record(RecordDict.inflate(*inflated(to_record(PACKET))))
    assert dict(found.settings) == dict(PACKET.settings)
    assert dict(found.metrics) == dict(PACKET.metrics)
    assert set(found.arrays) == set(PACKET.arrays)
    for group, arrays in PACKET.arrays.items():
        for key, array in arrays.items():
            assert found.arrays[group][key].dtype == array.dtype
            np.testing.assert_array_equal(found.arrays[group][key], array)


def test_equal_groups_for_two_sites_are_one_object_for_flower() -> None:
    one, other = (to_record(Packet({"round": i}, {"representation": PACKET.arrays["update"]})) for i in (1, 2))
    first, second = (record.array_records["arrays"]["representation"].object_id for record in (one, other))
    assert first == second


@pytest.mark.parametrize("code", ERRORS)
def test_error_code_of_a_site_becomes_the_coordinators_own_sentence(code: str) -> None:
    with pytest.raises(Rejected, match=ERRORS[code]):
        from_record(error_record(code))


def test_text_of_a_site_is_never_repeated() -> None:
    with pytest.raises(Rejected) as caught:
        from_record(error_record("crash while reading /data/DOE_JOHN.nii.gz"))
    assert caught.value.message == "the site sent an error without a known code."


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({"settings": ConfigRecord(), "arrays": ArrayRecord()}),
        RecordDict({"settings": MetricRecord(), "arrays": ArrayRecord(), "metrics": MetricRecord()}),
        RecordDict(
            {
                "settings": ConfigRecord(),
                "arrays": ArrayRecord({"update": Array("uint8", (4,), "safetensors", b"junk")}),
                "metrics": MetricRecord(),
            }
        ),
    ],
    ids=["empty", "without metrics", "other kind", "corrupt bytes"],
)
def test_record_that_cannot_be_read_is_rejected(record: RecordDict) -> None:
    with pytest.raises(Rejected, match="cannot be read"):
        from_record(record)


def inflated(record: RecordDict) -> tuple[bytes, dict[str, object]]:
    """What arrives at the other end: the record's bytes and its children, each inflated from bytes."""

    def again(item: object) -> object:
        children = {key: again(child) for key, child in (item.children or {}).items()}  # type: ignore[attr-defined]
        return type(item).inflate(item.deflate(), children or None)  # type: ignore[attr-defined]

    return record.deflate(), {key: again(child) for key, child in (record.children or {}).items()}
