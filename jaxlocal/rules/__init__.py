"""The learning rules, by name. A new rule is one file, and here its import, and its name in both lists."""

from jaxlocal.rules.associated import al
from jaxlocal.rules.backprop import bp
from jaxlocal.rules.contrastive import scpl
from jaxlocal.rules.decoupled import dgl
from jaxlocal.rules.direct import dfa, dkp, drtp
from jaxlocal.rules.feedback import fa, kp
from jaxlocal.rules.forward_forward import ff
from jaxlocal.rules.input_modulation import pepita
from jaxlocal.rules.local_losses import predsim
from jaxlocal.rules.sign_symmetry import brsf, frsf, usf
from jaxlocal.rules.target_prop import ao_sdtp, dtp, sdtp, tp
from jaxlocal.rules.weight_mirror import wm

ALL = {
    rule.__name__: rule
    for rule in (
        bp,
        al,
        tp,
        dtp,
        sdtp,
        ao_sdtp,
        fa,
        kp,
        usf,
        brsf,
        frsf,
        wm,
        dfa,
        drtp,
        dkp,
        pepita,
        predsim,
        dgl,
        scpl,
        ff,
    )
}

__all__ = [
    "ALL",
    "al",
    "ao_sdtp",
    "bp",
    "brsf",
    "dfa",
    "dgl",
    "dkp",
    "drtp",
    "dtp",
    "fa",
    "ff",
    "frsf",
    "kp",
    "pepita",
    "predsim",
    "scpl",
    "sdtp",
    "tp",
    "usf",
    "wm",
]
