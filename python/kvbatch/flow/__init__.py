"""How fast a job goes and what holds it back: limits, throttle reasons, adaptation. Policy only; what is measured comes
from the streams and the core."""
