"""The course of one request through the cascade, as a pure state machine. Time and loads are arguments.

`machine` is the state machine. It gets `events` and returns `effects`; `decisions` holds its decisions as pure
functions, and `state` what all requests of a cascade share. `calls` begins with all images of a call together.
`choosing` turns the plan's shares into a choice for each prompt, and `estimates`, `health` and `retries` hold what the
router has learnt.
"""
