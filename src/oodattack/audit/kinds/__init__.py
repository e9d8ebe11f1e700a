"""The kinds of attacks that an audit can run.

A new kind needs a file here, an entry in `KINDS`, and a name in the settings.
"""

from collections.abc import Mapping

from oodattack.audit.kinds.aimed import Aimed
from oodattack.audit.kinds.direct import Direct
from oodattack.audit.kinds.informed import Informed
from oodattack.audit.kinds.kind import BatchAttack, Context, Kind, Target, reading
from oodattack.audit.kinds.latent import Latent

KINDS: Mapping[str, Kind] = {"latent": Latent(), "informed": Informed(), "direct": Direct(), "aimed": Aimed()}

__all__ = ["KINDS", "BatchAttack", "Context", "Kind", "Target", "reading"]
