"""The consent dialog: to whom, what leaves, what never leaves, whose code runs. It has no default button."""

import platform
import time
from typing import Any

import qt
from slicer.i18n import tr as _

from SegVizSlicerLib.SiteKit import KitInfo

SETTINGS_KEY = "SegViz/consent"


class ConsentDialog(qt.QDialog):
    """Shows one kit's terms; "I agree" is enabled by the check box alone."""

    def __init__(self, kit: KitInfo, organs: tuple[str, ...], parent: Any = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(_("SegViz: what is sent"))
        self.setObjectName("SegVizConsent")
        self.setMinimumWidth(560)
        layout = qt.QVBoxLayout(self)
        for title, lines in terms(kit, organs):
            heading = qt.QLabel(f"<b>{title}</b>")
            text = qt.QLabel("\n".join(lines))
            text.setWordWrap(True)
            text.setIndent(12)
            layout.addWidget(heading)
            layout.addWidget(text)
        box = qt.QCheckBox(_("I am authorised to take part for my site"))
        box.setObjectName("authorisedCheckBox")
        layout.addWidget(box)
        buttons = qt.QHBoxLayout()
        buttons.addStretch(1)
        for name, text, slot in (
            ("disagreeButton", _("Cancel"), self.reject),
            ("agreeButton", _("I agree"), self.accept),
        ):
            button = qt.QPushButton(text)
            button.setObjectName(name)
            button.setAutoDefault(False)
            button.setDefault(False)
            button.clicked.connect(slot)
            buttons.addWidget(button)
        layout.addLayout(buttons)
        agree = self.findChild("QPushButton", "agreeButton")
        agree.setEnabled(False)
        agree.setToolTip(_("Tick the box above first."))
        box.toggled.connect(agree.setEnabled)


def terms(kit: KitInfo, organs: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """(heading, lines) of the dialog; a change of any of them asks for a new consent."""
    return [
        (
            _("To whom"),
            [
                _("{study} at {address}").format(study=kit.study, address=kit.address),
                _("Certificate {fingerprint}").format(fingerprint=readableFingerprint(kit.fingerprint)),
            ],
        ),
        (
            _("Leaves this computer"),
            [
                _("Model weights and norm statistics, every round"),
                _("Number of training cases per organ; label names: {organs}").format(organs=", ".join(organs)),
                _("Loss and Dice of training and validation, calibration, steps and seconds"),
                _("Site name: {site}").format(site=kit.site),
                _("Version of SegViz, a hash of how CTs are prepared, codes of errors"),
            ],
        ),
        (
            _("Who sees it"),
            [
                _("The coordinator: all of it"),
                _("Other sites: this site's name, organs and numbers of cases, and its weights"),
                _("Weights can tell something about the cases they were trained on."),
            ],
        ),
        (_("Never leaves"), [_("Images, segmentations, DICOM tags, file names")]),
        (_("Code"), [_("None from the coordinator: only SegViz as installed here is run.")]),
    ]


def askConsent(kit: KitInfo, organs: tuple[str, ...], parent: Any = None) -> bool:
    """Show the dialog to a person; also under --testing it never answers by itself."""
    return bool(ConsentDialog(kit, organs, parent).exec_() == qt.QDialog.Accepted)


def storeConsent(kit: KitInfo, organs: tuple[str, ...]) -> None:
    """Remember the agreement with its date, this computer and what it covers."""
    settings = qt.QSettings()
    settings.setValue(f"{SETTINGS_KEY}/covers", _covers(kit, organs))
    settings.setValue(f"{SETTINGS_KEY}/date", time.strftime("%Y-%m-%d %H:%M"))
    settings.setValue(f"{SETTINGS_KEY}/host", platform.node())


def consentDate(kit: KitInfo, organs: tuple[str, ...]) -> str:
    """When consent to exactly these terms was given, or empty: other terms ask again."""
    settings = qt.QSettings()
    if settings.value(f"{SETTINGS_KEY}/covers", "") != _covers(kit, organs):
        return ""
    return str(settings.value(f"{SETTINGS_KEY}/date", ""))


def withdrawConsent() -> None:
    """Forget the agreement."""
    qt.QSettings().remove(SETTINGS_KEY)


def readableFingerprint(fingerprint: str) -> str:
    """SHA-256 in groups, short enough to compare by eye: the first eight bytes."""
    return " ".join(fingerprint[i : i + 4].upper() for i in range(0, 16, 4))


def _covers(kit: KitInfo, organs: tuple[str, ...]) -> str:
    return "|".join(line for _title, lines in terms(kit, organs) for line in lines)
