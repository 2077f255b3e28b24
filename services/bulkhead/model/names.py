"""Names of containers: what is allowed, and names for those who gave none.

Texts and rules as in Docker (engine-api.md 3.1); the word lists are our own.
"""

from __future__ import annotations

import re
import secrets

from bulkhead.errors import InvalidArgument

_ALLOWED = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")

_ADJECTIVES = """
    able agile airy amber ample apt arctic avid bold brave breezy bright brisk calm candid careful cheery chilly
    clever coastal cobalt cosmic cosy crisp curious daring deft dewy eager earnest early easy fabled fair fearless
    fleet fluent fond frank fresh gentle gifted glad golden graceful grand hardy hazel helpful honest humble ideal
    ivory jade jolly jovial keen kind lively loyal lucid lunar mellow merry mild mindful modest neat nimble noble
    northern open orderly patient peppy placid plucky polite proud prudent quick quiet radiant ready robust rosy
    rustic sage salty scenic sharp silver sincere sleek smooth snug solid sound spry stable steady stellar sturdy
    subtle sunny swift tactful tame tidal tidy tranquil trusty upbeat valiant vast vivid warm wavy willing windy
    wise witty young zesty
"""

# People of ships, seas, compasses, containers and computing.
_SURNAMES = """
    abbe adams allen amundsen anning babbage banneker baran barents bartik beaufort bering bernoulli boole borg
    bowditch braun brunel cabot cerf chappe clarke codd columba cook cousteau cray darby dijkstra drake earhart
    easley eckert engelbart ericson euler faggin falkner feinler flinders floyd forrester fourier franklin froude
    fulton galois gama goldberg goldstine grace halley hamilton harrison henson hoare holberton hopper hudson
    huygens iverson jacobi johnson kay kelvin kernighan kilby kleinrock knuth lamarr lamport lander laplace lind
    liskov lovelace magellan maury mcbride mclean mercator metcalfe milne minsky moore nansen napier naur newell
    nightingale noether noyce nygaard ohm osborne parsons pascal perlman piccard plimsoll polo postel ptolemy ride
    ritchie roberts ross rubin scott shackleton shannon sharp slocum spence steele stroustrup sutherland tasman
    tharp thompson torvalds turing vespucci vonneumann watt weiner wilkes wilkinson wirth wren zuse
"""

ADJECTIVES = tuple(_ADJECTIVES.split())
SURNAMES = tuple(_SURNAMES.split())


def normal(name: str) -> str:
    """`name` without the slash that Docker puts before names; InvalidArgument when it is not allowed."""
    if _ALLOWED.fullmatch(name) is None:
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name.removeprefix("/")


def random_name(attempt: int = 0) -> str:
    """An adjective and a surname; from the second attempt on with a digit, as Docker does."""
    digit = "" if attempt == 0 else str(secrets.randbelow(10))
    return f"{secrets.choice(ADJECTIVES)}_{secrets.choice(SURNAMES)}{digit}"
