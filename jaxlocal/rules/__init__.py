"""The learning rules, by name. A new rule is one file, and one line in this list."""

from jaxlocal.rules.associated import al
from jaxlocal.rules.backprop import bp
from jaxlocal.rules.direct import dfa, dkp, drtp
from jaxlocal.rules.feedback import fa, kp
from jaxlocal.rules.local_losses import predsim
from jaxlocal.rules.target_prop import ao_sdtp, dtp, sdtp, tp

ALL = {rule.__name__: rule for rule in (bp, al, tp, dtp, sdtp, ao_sdtp, fa, kp, dfa, drtp, dkp, predsim)}

__all__ = ["ALL", "al", "ao_sdtp", "bp", "dfa", "dkp", "drtp", "dtp", "fa", "kp", "predsim", "sdtp", "tp"]
