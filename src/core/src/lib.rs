//! What appliance and agent share: ids, hardware, trust, bundles, enrollment, time. No I/O, no clock.
