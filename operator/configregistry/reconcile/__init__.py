"""From a queued name to an accepted status: gather -> decide -> act, one registry at a time.

`gather` does all the reading, `rollout.decide` all the deciding, `act` all the writing; `reconciler`
calls the three in this order and nothing else does.
"""
