"""Whom to join, in the Join section: the site kit or its parts, the address, and a key that the site makes itself."""

from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SegVizSlicerLib import ConsentDialog as consent
from SegVizSlicerLib.Report import Outcome
from SegVizSlicerLib.SiteKit import KitInfo, assembleKit, certificateOf, readKit
from SegVizSlicerLib.State import explain


class KitPanel:
    """Works with the widgets and the logic of `federation`, the panel around it."""

    def __init__(self, federation: Any) -> None:
        self._federation, self._window = federation, federation.window
        self.kit: KitInfo | None = None
        self._problem = ""
        ui = self._window.ui
        ui.kitPath.currentPathChanged.connect(lambda path: self.choose(Path(path)))
        for field in (ui.certificatePath, ui.keyPath):
            field.currentPathChanged.connect(lambda _path: self._choosePart())
        ui.addressEdit.textChanged.connect(lambda _text: self._window.updateGUI())
        ui.makeKeyButton.clicked.connect(lambda *_a: self.makeKey())

    @property
    def address(self) -> str:
        """The coordinator's address as shown."""
        return str(self._window.ui.addressEdit.text)

    @property
    def certificateText(self) -> str:
        """The certificate in words, or empty."""
        if self.kit is None:
            return ""
        fingerprint = consent.readableFingerprint(self.kit.fingerprint)
        return _("{fingerprint}, {days:.0f} more days").format(fingerprint=fingerprint, days=self.kit.daysLeft)

    def restore(self) -> None:
        """Fill in the administrator's fields and the kit of last time."""
        ui, policy = self._window.ui, self._window.policy
        if policy.address:
            ui.addressEdit.setText(policy.address)
        if policy.certificate:
            ui.certificatePath.setCurrentPath(policy.certificate)
        kit = str(qt.QSettings().value("SegViz/kit", "") or "")
        if kit and Path(kit).exists():
            ui.kitPath.setCurrentPath(kit)

    def choose(self, path: Path) -> None:
        """Read a kit, or its kit.json when the three parts come one by one."""
        self.kit, self._problem = None, ""
        if path.suffix == ".json":
            self._choosePart()
            return
        if str(path) != ".":
            try:
                self._use(readKit(path))
            except ValueError as error:
                self._problem = str(error)
        self._choosePart()

    def makeKey(self) -> None:
        """Make this computer's own key once; its public half is for the coordinator, the key itself stays."""

        def ended(outcome: Outcome) -> None:
            if outcome.ok:
                public = Path(outcome.result["public_key"])
                self._window.ui.keyPath.setCurrentPath(str(self._ownKey()))
                text = _("Send {file} to the coordinator, who makes a kit for it. The key itself stays here.")
                self._federation.say(text.format(file=public))
                qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(public.parent)))
            else:
                self._federation.say(f"{outcome.message} {outcome.hint}".strip(), failed=not outcome.cancelled)
            self._window.updateGUI()

        try:
            self._window.dependencies.ensureFederation()
            self._federation.logic.makeKey(self._ownKey().parent, onFinished=ended, onLog=self._window.log)
        except Exception as error:
            self._federation.say(str(error), failed=True)
        self._window.updateGUI()

    def toJoin(self) -> KitInfo:
        """The kit with the address that is shown."""
        assert self.kit is not None
        changed = self.address != self.kit.address
        return self.kit.withAddress(self.address, self._kits()) if changed else self.kit

    def whyNot(self) -> str:
        """Why the kit is not complete yet, or empty."""
        if not self.address:
            return _("Enter the coordinator address.")
        if self.kit is None:
            return _("Choose the coordinator's CA certificate.")
        return "" if self.kit.hasKey else _("Choose this site's key: the kit was made for a key that stays here.")

    def update(self, running: str, barred: str) -> None:
        """Fields and the sentence about the kit; `running` and `barred` are reasons, or empty."""
        ui, policy = self._window.ui, self._window.policy
        ui.kitLabel.setText(self._problem or (self.kit.text if self.kit else ""))
        for field in (ui.kitPath, ui.keyPath):
            field.enabled = not (running or barred)
        explain(ui.addressEdit, barred or (policy.reason if policy.address else running))
        explain(ui.certificatePath, barred or (policy.reason if policy.certificate else running))
        make = _("For a study whose sites make their keys themselves: the coordinator gets the public half only.")
        explain(ui.makeKeyButton, barred or running, make)

    def _use(self, kit: KitInfo) -> None:
        policy = self._window.policy
        if policy.certificate and Path(policy.certificate).read_text(encoding="ascii").strip() != (
            certificateOf(kit).strip()
        ):
            raise ValueError(_("This kit has another certificate than the one set by your administrator."))
        self.kit, self._problem = kit, ""
        self._window.ui.addressEdit.setText(policy.address or kit.address)
        self._federation.labelSet.offer(kit.allow)
        qt.QSettings().setValue("SegViz/kit", str(kit.path))

    def _choosePart(self) -> None:
        """With kit.json, certificate and key all named, they are as good as a kit; so is a kit with its site's key."""
        ui = self._window.ui
        paths = [Path(field.currentPath) for field in (ui.kitPath, ui.certificatePath, ui.keyPath)]
        try:
            if paths[0].suffix == ".json" and all(path.is_file() for path in paths):
                self._use(assembleKit(*paths, address=self.address, folder=self._kits()))
            elif self.kit is not None and not self.kit.hasKey:
                key = paths[2] if paths[2].is_file() else self._ownKey()
                if key.is_file():
                    self._use(self.kit.withKey(key, self._kits()))
        except (OSError, ValueError) as error:
            self._problem = str(error)
        self._window.updateGUI()

    def _ownKey(self) -> Path:
        return Path(self._window.folder / "key" / "site_key")

    def _kits(self) -> Path:
        return Path(self._window.folder / "kits")
