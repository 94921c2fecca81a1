"""The operators that upsampling spends its time in: public names and the choice of implementation.

Every operator has a reference in plain torch (``ops.reference``), which is also the oracle of the tests.
"""

from featup_app.ops.reference import adaptive_conv, range_softmax, window_sum
from featup_app.ops.status import native_status

__all__ = ["adaptive_conv", "native_status", "range_softmax", "window_sum"]
