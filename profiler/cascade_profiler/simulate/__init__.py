"""A discrete-event simulator that runs the product's own planning, routing and dispatch code on a trace of arrivals."""
