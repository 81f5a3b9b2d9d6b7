"""The site's own guard: a request is checked before anything of it is used, as the server checks replies."""

import string

from segviz_core.errors import InputError
from segviz_core.federation.guard import check_values
from segviz_core.federation.packets import Packet, check_schema
from segviz_core.federation.schema import NEEDED, REQUEST, REQUEST_GROUPS, is_one_of
from segviz_core.federation.settings import TRANSPORTS, SiteSettings
from segviz_core.federation.synchronization import Template, check_arrays
from segviz_core.federation.transport import on_the_wire

_NAMES = set(string.ascii_letters + string.digits + "-_,")


def check_request(request: Packet, *, settings: SiteSettings, template: Template) -> None:
    """Check settings, ranges and arrays of a request against the protocol, the kit and the site's own network.

    Raises:
        InputError: naming the first fault.
    """
    check_schema(request, REQUEST)
    for name in ("round", "mode", *NEEDED.get(request.stage, ())):
        if name not in request.settings:
            raise InputError(f"A request of the stage {request.stage} needs the setting {name}, found none.")
    if (transport := request.settings.get("transport", "fp32")) not in TRANSPORTS:
        raise InputError(f"transport: expected one of {', '.join(TRANSPORTS)}, found {transport!r}.")
    if (steps := int(request.settings.get("steps", 0))) > settings.most_steps:
        raise InputError(f"steps: the kit of this study allows {settings.most_steps} in one request, found {steps}.")
    if not set(str(request.settings.get("sites", ""))) <= _NAMES:
        raise InputError("sites: expected names of letters, digits, - and _, found something else.")
    allowed = REQUEST_GROUPS.get(request.stage, ())
    for group, arrays in request.arrays.items():
        if not is_one_of(group, allowed):
            raise InputError(f"A request of the stage {request.stage} holds no arrays {group}.")
        if group != "model":
            spec = template.head if "head/" in group else template.representation
            wire = on_the_wire(spec, group, transport=str(transport), norm=template.norm)
            check_arrays(arrays, wire, what=group)
            check_values(arrays, group)
    if allowed and request.stage != "label" and allowed[0] not in request.arrays:
        raise InputError(f"A request of the stage {request.stage} needs the arrays {allowed[0]}, found none.")
