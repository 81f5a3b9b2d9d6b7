"""Where a site's own training stands: networks and Adam states, on disk, so that a kill loses no finished step."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from segviz_core.atomic import replacing
from segviz_core.errors import InputError
from segviz_core.federation.packets import Arrays
from segviz_core.federation.weights import initial_head, load_arrays, load_training, save_training
from segviz_core.network import NetworkConfig, SegVizNet
from segviz_core.training import set_trainable


class TrainingState:
    """Phase 1 is kept by its step, phase 2 by its round; `organs` are the site's own, `seed` the study's."""

    def __init__(
        self, work: Path, config: NetworkConfig, *, organs: tuple[str, ...], seed: int, device: str = "cpu"
    ) -> None:
        self._work, self._config, self._organs, self._seed, self._device = work, config, organs, seed, device
        self._shared: tuple[int, SegVizNet, torch.optim.Optimizer] | None = None

    def keep_common(self, representation: Arrays) -> None:
        """Keep the representation that every site of the study starts from."""
        with replacing(self._work / "common.safetensors") as temporary:
            save_file(representation, temporary)

    def local(self) -> tuple[SegVizNet, torch.optim.Optimizer, int]:
        """Network, optimiser and finished steps of phase 1; at step 0 the common start.

        Raises:
            InputError: this site has not declared itself yet.
        """
        common = self._work / "common.safetensors"
        if not common.exists():
            raise InputError("This site has not declared itself in this study yet.", hint="Leave and join again.")
        network, optimizer = self._new(self._organs)
        saved = _numbered(self._work, "local")
        if saved:
            done = max(saved)
            load_training(saved[done], network, optimizer)
            return network, optimizer, done
        load_arrays(network.representation, load_file(common))
        for organ in self._organs:
            head = initial_head(self._config, seed=self._seed, organ=organ)
            network.head(organ).load_state_dict(head.state_dict())
        return network, optimizer, 0

    def keep_local(self, step: int, network: SegVizNet, optimizer: torch.optim.Optimizer) -> None:
        """Keep phase 1 as it is after `step`."""
        path = self._work / f"local-{step:08d}.safetensors"
        save_training(path, network, optimizer)
        for old in _numbered(self._work, "local").values():
            if old != path:
                old.unlink()

    def shared(self, number: int, organs: tuple[str, ...], *, fresh: bool) -> tuple[SegVizNet, torch.optim.Optimizer]:
        """A network for round `number`, its weights still to be filled in, with Adam as it was after the last round.

        `fresh` begins phase 2 (anew): nothing of an earlier one is used.
        """
        if fresh:
            self._shared = None
            for path in _numbered(self._work, "shared").values():
                path.unlink()
        kept, self._shared = self._shared, None  # given away: what is stopped half-way is read from disk next time
        if kept and kept[0] < number and kept[1].organs == organs:
            return kept[1:]
        network, optimizer = self._new(organs)
        saved = _numbered(self._work, "shared")
        if earlier := [n for n in saved if n < number]:
            load_training(saved[max(earlier)], network, optimizer, adam_only=True)
        return network, optimizer

    def own_heads(self, number: int) -> dict[str, Arrays]:
        """The site's heads as they were after the last round before `number`; nothing before the first."""
        saved = {n: path for n, path in _numbered(self._work, "shared").items() if n < number}
        if not saved:
            return {}
        prefixes = {organ: f"network|heads.{organ}." for organ in self._organs}
        with safe_open(saved[max(saved)], framework="np") as file:
            names = list(file.keys())
            return {
                organ: {n.removeprefix(prefix): file.get_tensor(n) for n in names if n.startswith(prefix)}
                for organ, prefix in prefixes.items()
            }

    def keep_shared(self, number: int, network: SegVizNet, optimizer: torch.optim.Optimizer) -> None:
        """Keep phase 2 as it is after round `number`; the round before stays, for this one may be asked again."""
        save_training(self._work / f"shared-{number:06d}.safetensors", network, optimizer)
        for old, path in _numbered(self._work, "shared").items():
            if old < number - 1:
                path.unlink()
        self._shared = (number, network, optimizer)

    def _new(self, organs: tuple[str, ...]) -> tuple[SegVizNet, torch.optim.Optimizer]:
        network = SegVizNet(self._config, organs).to(self._device)
        return network, torch.optim.Adam(set_trainable(network, own=self._organs), 1e-3, fused=True)


def _numbered(work: Path, name: str) -> dict[int, Path]:
    return {int(path.stem.removeprefix(f"{name}-")): path for path in work.glob(f"{name}-*.safetensors")}
