"""The life of one request, as a pure state machine: no clock, no I/O, time and loads are arguments."""
