"""One test for every "must not" row of method.md section 5."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from random_model import random_model
from toy_cases import PATCH, toy_case, toy_settings, toy_site

from segviz_core.batches import draw_batch
from segviz_core.cases import open_site
from segviz_core.contract import DataContract
from segviz_core.experiments.phantoms import make_phantom
from segviz_core.experiments.profiles import PROFILES
from segviz_core.experiments.runner import run_study
from segviz_core.federation.aggregation import aggregate
from segviz_core.federation.export import meta_model_of
from segviz_core.federation.guard import Rejected
from segviz_core.federation.session import SiteSession
from segviz_core.federation.state import Member, StudyState
from segviz_core.federation.study import Study
from segviz_core.federation.weights import create_study, load_arrays, to_arrays
from segviz_core.inference import segment
from segviz_core.labels import LABEL_SETS
from segviz_core.network import NetworkConfig, SegVizNet, norm_keys
from segviz_core.training import FLOOR, TrainingConfig, cosine, train
from segviz_core.volumes import read_ct

SITES = {"1": ("north", "liver"), "2": ("south", "spleen")}


class Federation:
    """Two sites after one shared round; keeps every request that each site got."""

    def __init__(self, folder, mode: str, *, rounds: int = 2) -> None:
        self.settings = toy_settings(mode=mode, rounds=rounds)
        create_study(folder / "study", self.settings)
        self.study = Study(folder / "study")
        self.sites = {
            node: SiteSession(
                self.settings.for_site(site), toy_site(organ, cases=3 + 4 * int(node == "2")), folder / site
            )
            for node, (site, organ) in SITES.items()
        }
        self.requests: dict[str, list] = {node: [] for node in SITES}
        self.replies: dict[str, list] = {node: [] for node in SITES}
        run_study(self.study, {node: self._recorded(node) for node in SITES})

    def _recorded(self, node):
        def answer(request):
            self.requests[node].append(request)
            reply = self.sites[node].handle(request)
            self.replies[node].append(reply)
            return reply

        return answer

    def trained(self, node):
        """(request, reply) of every `train` round."""
        pairs = zip(self.requests[node], self.replies[node], strict=True)
        return [(q, r) for q, r in pairs if q.stage == "train"]


@pytest.fixture(scope="module")
def fedavg(tmp_path_factory):
    return Federation(tmp_path_factory.mktemp("fedavg"), "segviz-fedavg")


@pytest.fixture(scope="module")
def fedbn(tmp_path_factory):
    return Federation(tmp_path_factory.mktemp("fedbn"), "segviz-fedbn")


def test_1_averaging_changes_every_sites_weights(fedavg):
    for node in SITES:
        (_, reply), (second, _) = fedavg.trained(node)
        first = fedavg.trained(node)[0][0].arrays["representation"]
        key = "0.conv.unit0.conv.weight"
        local = first[key] + reply.arrays["update"][key]
        assert not np.array_equal(second.arrays["representation"][key], local)
        assert not np.array_equal(second.arrays["representation"][key], first[key])


def test_1_representations_are_bit_identical_at_all_sites_after_a_round(fedavg):
    a, b = (fedavg.trained(node)[1][0].arrays["representation"] for node in SITES)
    assert all(np.array_equal(a[key], b[key]) for key in a)


def test_1_fedbn_representations_differ_in_norm_layers_only(fedbn):
    a, b = (fedbn.trained(node)[1][0].arrays["representation"] for node in SITES)
    norm = norm_keys(SegVizNet(NetworkConfig.from_dict(fedbn.settings.network), ["liver"]).representation)
    differing = {key for key in a if not np.array_equal(a[key], b[key])}
    assert differing
    assert differing <= norm


def test_1_heads_are_unchanged_by_the_synchronisation(fedavg):
    sent = fedavg.trained("1")[0][1].arrays["head/liver"]
    back = fedavg.trained("1")[1][0].arrays["head/liver"]
    assert all(np.array_equal(sent[key], back[key]) for key in sent)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.popitem(),
        lambda a: a.update(zero=np.zeros(1)),
        lambda a: a.update({next(iter(a)): np.zeros(3, np.float32)}),
    ],
)
def test_1_missing_key_or_wrong_shape_raises(change):
    network = SegVizNet(NetworkConfig((4, 8), (2,), 1), ["liver"])
    arrays = to_arrays(network)
    change(arrays)
    with pytest.raises(RuntimeError, match=r"Missing key|Unexpected key|size mismatch"):
        load_arrays(network, arrays)


def test_2_norm_layers_of_the_published_network_are_found_by_type():
    representation = SegVizNet(NetworkConfig(), ["liver"]).representation
    found = norm_keys(representation)
    assert len(found) == 80
    assert not [key for key in found if "bn" in key.lower() or "norm" in key.lower()]  # MONAI calls them adn.N


def test_3_head_of_one_owner_keeps_its_size_and_counters_stay_integers(fedavg):
    head = fedavg.study.state.heads["liver"]
    sent = fedavg.trained("1")[-1][1].arrays["head/liver"]
    assert all(np.array_equal(head[key], sent[key]) for key in head)
    counters = [a for key, a in fedavg.study.state.representation.items() if key.endswith("num_batches_tracked")]
    assert counters
    assert all(counter.dtype == np.int64 for counter in counters)


def test_4_dice_is_averaged_over_the_sites_that_report_it_not_over_all(fedavg):
    members = {
        "1": Member("east", ("liver",), {"liver": 10}),
        "2": Member("north", ("liver",), {"liver": 30}),
        "3": Member("south", ("spleen",), {"spleen": 60}),
        "4": Member("west", ("spleen",), {"spleen": 20}),  # too small for a validation set
    }
    state = StudyState(fedavg.study.state.representation, members=members)
    metrics = {"east": {"dice/liver": 0.4}, "north": {"dice/liver": 0.8}, "south": {"dice/spleen": 0.9}, "west": {}}
    replies = SimpleNamespace(sites=sorted(metrics), metrics=metrics)
    aggregate("evaluate", replies, state, settings=fedavg.settings, template=fedavg.study.template)
    assert state.dice == pytest.approx({"liver": 0.7, "spleen": 0.9})


def test_5_sites_of_different_size_make_equal_steps(fedavg):
    steps = {node: sum(reply.metrics["steps"] for _, reply in fedavg.trained(node)) for node in SITES}
    assert steps == {"1": 4.0, "2": 4.0}


def test_6_mixed_batch_keeps_the_label_of_every_case():
    cases = [toy_case("a", ("liver",), seed=1), toy_case("b", ("spleen",), seed=2)]
    seen = set()
    for seed in range(40):
        batch = draw_batch(
            cases, organs=("liver", "spleen"), patch_size=PATCH, batch_size=2, rng=np.random.default_rng(seed)
        )
        for item in range(2):
            own = [bool(flag) for flag in batch.annotated[item]]
            assert own in ([True, False], [False, True])
            assert not batch.masks[item, own.index(False)].any()
        if batch.annotated[0].tolist() != batch.annotated[1].tolist():
            seen.add(tuple(batch.masks.flatten(2).any(-1).any(0).tolist()))
    assert (True, True) in seen


def test_7_training_and_inference_see_the_same_voxels(tmp_path):
    profile = PROFILES["smoke"]
    ct, labels = make_phantom("liver", 0, profile=profile)
    for name, voxels in (("images", ct.voxels), ("labels", (labels == 1).astype(np.uint8))):
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(voxels, ct.affine), tmp_path / name / "a.nii.gz")
    contract = DataContract((9.0, 11.0, 13.0))  # a grid that is not the phantom's own
    (case,) = open_site(tmp_path, label_set=LABEL_SETS["liver"], contract=contract).training_cases

    class Recorder:
        precision = "fp32"

        def margins(self, voxels):
            self.seen = voxels
            return np.zeros((4, *voxels.shape), np.float32)

    network = Recorder()
    ct = read_ct(tmp_path / "images" / "a.nii.gz")
    result = segment(replace(random_model(), contract=contract), ct, network=network)
    region = tuple(slice(*ends) for ends in result.region)
    expected = case.intensities[region]
    found = network.seen[tuple(slice(0, size) for size in expected.shape)]
    np.testing.assert_allclose(found, expected, atol=0.51 / 255)


def test_8_site_with_another_window_cannot_join(tmp_path):
    settings = toy_settings(mode="segviz-fedavg")
    create_study(tmp_path / "study", settings)
    study = Study(tmp_path / "study")
    other = toy_settings(mode="segviz-fedavg", contract=type(settings.contract)((10.0, 10.0, 10.0), (-57.0, 164.0)))
    session = SiteSession(other.for_site("north"), toy_site("liver"), tmp_path / "n")
    reply = session.handle(dict(study.requests(["1"]))["1"])
    with pytest.raises(Rejected, match="prepares its CTs in another way"):
        study.accept("1", reply)


def test_9_meta_model_holds_the_averaged_weights_not_a_sites_own(fedavg):
    model = meta_model_of(fedavg.study.state, fedavg.study.settings)
    last = {node: fedavg.trained(node)[-1] for node in SITES}
    key = "0.conv.unit0.conv.weight"
    start = last["1"][0].arrays["representation"][key]
    mean = start + np.mean([reply.arrays["update"][key] for _, reply in last.values()], axis=0)
    np.testing.assert_allclose(model.weights[f"representation.{key}"], mean, atol=1e-6)
    for request, reply in last.values():
        personal = request.arrays["representation"][key] + reply.arrays["update"][key]
        assert not np.allclose(model.weights[f"representation.{key}"], personal, atol=1e-7)


def test_9_learning_rate_depends_on_the_step_alone_and_only_falls():
    rates = [cosine(step, 50, 1e-3) for step in range(51)]
    assert rates[0] == 1e-3
    assert rates[-1] == pytest.approx(FLOOR * 1e-3)
    assert all(a > b for a, b in pairwise(rates))


def test_heads_get_no_gradient_from_foreign_cases():
    torch.manual_seed(0)
    network = SegVizNet(NetworkConfig((4, 8), (2,), 1), ["liver", "spleen"])
    before = to_arrays(network.head("spleen"))
    train(network, toy_site("liver").training_cases, TrainingConfig(2, patch_size=PATCH), organs=("liver",))
    after = to_arrays(network.head("spleen"))
    assert all(np.array_equal(before[key], after[key]) for key in before)
