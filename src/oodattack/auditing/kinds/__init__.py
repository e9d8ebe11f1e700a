"""The kinds of attacks that an audit can run.

A new kind needs a file here, an entry in `KINDS`, and a name in the settings.
"""

from collections.abc import Mapping

from oodattack.auditing.kinds.aimed import Aimed
from oodattack.auditing.kinds.direct import Direct
from oodattack.auditing.kinds.informed import Informed
from oodattack.auditing.kinds.kind import BatchAttack, Context, Kind, Target, reading
from oodattack.auditing.kinds.latent import Latent

KINDS: Mapping[str, Kind] = {"latent": Latent(), "informed": Informed(), "direct": Direct(), "aimed": Aimed()}

__all__ = ["KINDS", "BatchAttack", "Context", "Kind", "Target", "reading"]
