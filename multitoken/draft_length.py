"""How many heads to draft with: whatever writes most tokens per second, by what was measured so far."""

import statistics


class DraftLength:
    """Chooses how many heads to draft with from what it sees: accepted tokens against the cost of a step, which reads
    guesses that were made in the step before and makes as many for the next. Steps that begin or end drafting do only
    one of the two and are not recorded.

    Both are measured while writing: a few plain steps and a few with the longest draft first, then the length with the
    most tokens per second. Where drafting loses, steps are plain ones, but for a try now and then, at ever longer
    intervals: that is the guard.
    """

    NUM_PROBES = 3  # steps of each kind before the first decision; the first of a kind warms up and is not timed
    FIRST_WAIT = 32  # plain steps before a losing draft is tried again; doubled each time
    LONG_WAIT = 128  # the same where even a draft that is accepted whole would lose
    RECENT = 32  # steps over which costs are taken
    MEMORY = 0.95  # of acceptance, per step with a draft
    PRIOR = 0.25  # successes taken for granted; with 0.5 three failures did not end what cost a tenth of a step

    def __init__(self, max_drafts: int):
        self.max_drafts = max_drafts
        self.seconds: dict[int, list[float]] = {}  # by length
        self.offered = [0.0] * max_drafts
        self.accepted = [0.0] * max_drafts
        self.wait, self.waited, self.num_tries = self.FIRST_WAIT, 0, 0
        self.trying: int | None = None  # a losing draft that is tried again, until it is recorded

    def choose(self) -> int:
        """Drafts for the next step."""
        if self.max_drafts == 0:
            return 0
        for length in (0, self.max_drafts):
            if len(self.seconds.get(length, [])) < self.NUM_PROBES and not self._hopeless():
                return length
        if self.trying is not None:
            return self.trying
        best = max(range(self.max_drafts + 1), key=lambda length: self.expected_tokens(length) / self.cost(length))
        if best:
            self.wait, self.waited = self.FIRST_WAIT, 0
        elif self.waited >= (max(self.wait, self.LONG_WAIT) if self._hopeless() else self.wait):
            self.wait, self.waited, self.num_tries = 2 * self.wait, 0, self.num_tries + 1
            self.trying = 1 + (self.num_tries - 1) % self.max_drafts  # each length in turn: its cost is only guessed
            return self.trying
        return best

    def record(self, length: int, num_accepted: float, seconds: float) -> None:
        """One step: `num_accepted` is the mean over the texts of a batch."""
        self.waited += length == 0
        self.seconds.setdefault(length, []).append(seconds)
        del self.seconds[length][: -self.RECENT]
        if length == self.trying and len(self.seconds[length]) > 1:  # the first step of a kind is not timed
            self.trying = None
        for position in range(length):
            share = min(max(num_accepted - position + 1, 0.0), 1.0)  # of the texts whose draft got so far
            self.offered[position] = self.MEMORY * self.offered[position] + share
            accepted = min(max(num_accepted - position, 0.0), 1.0)
            self.accepted[position] = self.MEMORY * self.accepted[position] + accepted

    def expected_tokens(self, length: int) -> float:
        tokens = probability = 1.0
        for position in range(length):
            # A little more success than was seen: where a draft is cheap, a few failures do not rule it out.
            probability *= (self.accepted[position] + self.PRIOR) / (self.offered[position] + 1.0)
            tokens += probability
        return tokens

    def cost(self, length: int) -> float:
        """Seconds of a step; lengths that were never tried lie on the line between those that were."""
        if len(self.seconds.get(length, [])) > 1:
            return statistics.median(self.seconds[length][1:])
        plain, longest = self.cost(0), self.cost(self.max_drafts)
        return plain + (longest - plain) * length / self.max_drafts

    def _hopeless(self) -> bool:
        """No draft would pay, were it always accepted."""
        if self.break_even is None:
            return False
        return all(length + 1 <= self.cost(length) / self.cost(0) for length in range(1, self.max_drafts + 1))

    @property
    def break_even(self) -> float | None:
        """Tokens per forward at which a step with the longest draft costs as much as plain steps."""
        if any(len(self.seconds.get(length, [])) < 2 for length in (0, self.max_drafts)):
            return None
        return self.cost(self.max_drafts) / self.cost(0)
