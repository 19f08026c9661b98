"""Deterministic simulation of a session: a book, its journal and an exchange in virtual time, with everything going wrong.

    python -m tests.simulation --seeds 1000 --steps 400      many seeds, two at a time
    python -m tests.simulation --first 17 --seeds 1 -v       one of them, told step by step
    python -m tests.simulation --exhaustive 20 --steps 60    twenty seeds, killed once at every point where they can be
    python -m tests.simulation --mutants                     books broken on purpose: each has to be caught
    python -m tests.simulation --broker live                 each of these (but --exhaustive) with the live broker

One seed is one `random.Random`. There are no threads, no real time and no order that depends on hashes: a seed that fails fails
again, on every machine. `world.py` is the world and what happens in it, `exchange.py` the exchange with its faults, `checks.py` what must
hold whatever happens, `mutants.py` the broken books. `live.py` is the world of the live broker, `venue.py` its exchange, `live_mutants.py`
has its broken ones.
"""
