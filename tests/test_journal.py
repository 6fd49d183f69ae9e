"""What a foreign model answered is kept, given back bit for bit, and counted as often as sent."""

import json

import numpy as np
import pytest

from restore_jax.oracles import Books, HostAnswers, Journal, Ledger, ModelError, OutOfQueries
from restore_jax.oracles.journal import NAME, JournalError

RUN = {"command": "recover", "seed": 0, "target": "2", "budget": None}
BITS = np.array([0x00000001, 0x7F7FFFFF, 0x80000000, 0x3EAAAAAB, 0xBF800001], np.uint32)


def images_of(number, seed=0):
    return np.random.default_rng(seed).random((number, 2, 2, 1), np.float32)


class Model:
    """Answers with awkward numbers, or labels, and counts; fails when told to."""

    def __init__(self, access="logits", again=()):
        self.access, self.again, self.received = access, list(again), 0

    def __call__(self, images, sending):
        self.received += len(images)
        for number in self.again:
            sending(number)
            self.received += number
        if self.access == "labels":
            return (images.sum((1, 2, 3)) * 10).astype(np.int64) % 5
        keys = images.view(np.uint32).sum((1, 2, 3))
        return np.roll(np.resize(BITS, (len(images), 5)), keys[0], 1).view(np.float32)


class Dies(Exception):
    """Nobody catches this: it stands for the end of a process."""


def run(path, requests, model, *, resume=False, ledger=None, dies_at=None, **changed):
    """A run that asks about some images; gives what it got. A dead one leaves its file as it is."""
    journal = Journal(path, RUN | changed, resume, {"classes": list("abcde"), "asked": 0})
    asked = 0

    def ask(images, sending):
        nonlocal asked
        asked += 1
        answer = model(images, sending)
        if dies_at == asked:
            raise Dies
        return answer

    foreign = HostAnswers("model", ask, model.access, 5, lambda x: x, batch=None, most=None)
    books = Books(ledger, journal)
    # A failure of the model is wrapped; the end of a process is not.
    foreign._failure = lambda error: error
    found = []
    try:
        for number, seed in requests:
            if ledger is not None:
                ledger.charge(number)
            found.append(foreign(images_of(number, seed), books))
    finally:
        journal.close()
    return found


REQUESTS = [(3, 0), (1, 1), (4, 2), (2, 3)]


def same(one, other):
    assert len(one) == len(other)
    for mine, yours in zip(one, other, strict=True):
        assert mine.dtype == yours.dtype
        assert mine.tobytes() == yours.tobytes()
        assert mine.shape == yours.shape


@pytest.mark.parametrize("access", ["logits", "labels"])
def test_answers_are_given_back_bit_for_bit_and_nobody_is_asked(access, tmp_path):
    first, second = Model(access), Model(access)
    found = run(tmp_path / NAME, REQUESTS, first)
    assert first.received == 10
    same(run(tmp_path / NAME, REQUESTS, second, resume=True), found)
    assert second.received == 0


def test_what_is_not_there_is_asked_and_kept_for_the_next_time(tmp_path):
    whole = run(tmp_path / "whole", REQUESTS, Model())
    run(tmp_path / NAME, REQUESTS[:2], Model())
    for received in (6, 0):
        model = Model()
        same(run(tmp_path / NAME, REQUESTS, model, resume=True), whole)
        assert model.received == received


def test_a_last_line_that_is_not_whole_says_nothing(tmp_path):
    path = tmp_path / NAME
    whole = run(path, REQUESTS, Model())
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    assert len(lines) == 1 + 2 * len(REQUESTS)
    for cut in {0, 1, len(lines[0]) - 1, len(lines[0]), len(content) - 1} | set(
        range(len(lines[0]) + 1, len(content), 41)
    ):
        path.write_bytes(content[:cut])
        ledger = Ledger(100)
        model = Model()
        same(run(path, REQUESTS, model, resume=True, ledger=ledger), whole)
        # What was sent but not answered is sent again, and only that.
        kept = [json.loads(line) for line in content[:cut].splitlines(keepends=True)
                if line.endswith(b"\n")]  # fmt: skip
        unanswered = kept[-1].get("sent", 0) if kept else 0
        answered = sum(line["shape"][0] for line in kept if "outputs" in line)
        assert model.received == 10 - answered
        assert ledger.spent == answered + unanswered + model.received
        assert ledger.resent == unanswered
        same(run(path, REQUESTS, Model(), resume=True), whole)


def test_a_run_of_other_arguments_is_refused_and_they_are_named(tmp_path):
    path = tmp_path / NAME
    run(path, REQUESTS[:1], Model())
    content = path.read_bytes()
    with pytest.raises(JournalError, match="with another budget, seed: resume it with the same"):
        run(path, REQUESTS, Model(), resume=True, seed=1, budget=5)
    with pytest.raises(JournalError, match="with another space: "):
        run(path, REQUESTS, Model(), resume=True, space="patch")
    assert path.read_bytes() == content
    # Tuples are lists to JSON, and no difference.
    run(tmp_path / "tuple", [], Model(), mean=(0.5, 0.5))
    run(tmp_path / "tuple", [], Model(), resume=True, mean=(0.5, 0.5))


def test_other_images_are_refused(tmp_path):
    path = tmp_path / NAME
    run(path, REQUESTS, Model())
    for others in ([(3, 9)], [(2, 0)], [*REQUESTS[:2], (4, 9)], [REQUESTS[1]]):
        with pytest.raises(JournalError, match="other images, so begin again with `overwrite`"):
            run(path, others, Model(), resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        b"words\n",
        b"[1]\n",
        b"\xff\xfe\x00\n",
        b'{"outputs": "AAAA"}\n',
        b'{"outputs": "AAAA", "shape": [1, 5], "dtype": "<f4"}\n',
        b'{"outputs": "\xc3\xa4AAA", "shape": [1], "dtype": "<i4"}\n',
        b'{"outputs": "AAAAAA==", "shape": [1], "dtype": "words"}\n',
        b'{"sent": 3}\n',
        b'{"again": "words"}\n',
        b"{}\n",
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(damage, tmp_path):
    path = tmp_path / NAME
    run(path, REQUESTS, Model())
    lines = path.read_bytes().splitlines(keepends=True)
    for place in (0, 2):
        path.write_bytes(b"".join([*lines[:place], damage, *lines[place + 1 :]]))
        with pytest.raises(JournalError) as caught:
            run(path, REQUESTS, Model(), resume=True)
        said = str(caught.value)
        assert str(path) in said
        assert said.endswith(".")
        assert "\n" not in said


def test_an_answer_of_somebody_else_is_not_taken(tmp_path):
    # Two processes that go on with one run write their lines in between each other's.
    path = tmp_path / NAME
    run(path, REQUESTS[:1], Model())
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[-1]]))
    with pytest.raises(JournalError, match="does not fit"):
        run(path, REQUESTS, Model(), resume=True)


def test_images_that_were_sent_and_not_answered_are_counted_again(tmp_path):
    path = tmp_path / NAME
    whole = run(tmp_path / "whole", REQUESTS, Model())
    received = 0
    for _ in range(3):  # it dies at the third request, which is the first that is not kept
        model, ledger = Model(), Ledger(100)
        with pytest.raises(Dies):
            run(path, REQUESTS, model, resume=path.exists(), ledger=ledger,
                dies_at=1 if path.exists() else 3)  # fmt: skip
        received += model.received
        assert ledger.spent == received
    model, ledger = Model(), Ledger(100)
    same(run(path, REQUESTS, model, resume=True, ledger=ledger), whole)
    assert ledger.resent == 3 * 4
    assert ledger.spent == received + model.received == 10 + 3 * 4
    # Whoever is given all of it counts all of it.
    again = Ledger(100)
    same(run(path, REQUESTS, Model(), resume=True, ledger=again), whole)
    assert (again.spent, again.resent) == (ledger.spent, ledger.resent)


def test_images_sent_again_within_a_request_are_counted_again(tmp_path):
    path = tmp_path / NAME
    model, ledger = Model(again=(2, 1)), Ledger(100)
    whole = run(path, REQUESTS, model, ledger=ledger)
    assert (ledger.spent, ledger.resent) == (model.received, 12) == (22, 12)
    ledger = Ledger(100)
    same(run(path, REQUESTS, Model(), resume=True, ledger=ledger), whole)
    assert (ledger.spent, ledger.resent) == (22, 12)
    # A request that failed after two attempts more, and then the whole of it once more.
    lines = path.read_bytes().splitlines(keepends=True)
    assert [sorted(json.loads(line)) for line in lines[5:8]] == [
        ["of", "request", "sent"], ["again"], ["again"]
    ]  # fmt: skip
    path.write_bytes(b"".join(lines[:8]))
    model, ledger = Model(), Ledger(100)
    same(run(path, REQUESTS, model, resume=True, ledger=ledger), whole)
    assert model.received == 1 + 4 + 2
    assert (ledger.spent, ledger.resent) == (10 + 3 + 3 + 1, 3 + 3 + 1)


def test_a_run_that_is_interrupted_only_counts_what_it_asks_then(tmp_path):
    path = tmp_path / NAME
    whole = run(tmp_path / "whole", REQUESTS, Model())
    journal = Journal(path, RUN, False)
    model = Model()
    foreign = HostAnswers("model", model, "logits", 5, lambda x: x, batch=None, most=None)
    kept = Books(journal=journal)
    foreign(images_of(*REQUESTS[0]), kept)
    journal.leaves = True
    foreign(images_of(7, 77), kept)
    foreign(images_of(8, 78), kept)
    journal.close()
    ledger = Ledger(100)
    model = Model()
    same(run(path, REQUESTS, model, resume=True, ledger=ledger), whole)
    assert model.received == 7
    assert (ledger.spent, ledger.resent) == (10 + 15, 15)


def test_a_replay_that_is_interrupted_asks_nothing(tmp_path):
    path = tmp_path / NAME
    run(path, REQUESTS, Model())
    content = path.read_bytes()
    journal, model = Journal(path, RUN, True), Model()
    foreign = HostAnswers("model", model, "logits", 5, lambda x: x, batch=None, most=None)
    kept = Books(journal=journal)
    foreign(images_of(*REQUESTS[0]), kept)
    journal.leaves = True
    with pytest.raises(KeyboardInterrupt):
        foreign(images_of(7, 77), kept)
    journal.close()
    assert model.received == 0
    assert path.read_bytes() == content


def test_what_opening_took_is_told(tmp_path):
    path = tmp_path / NAME
    assert Journal.was_opened(path) is None
    Journal(path, RUN, False, {"classes": ["a", "b"], "asked": 1}).close()
    assert Journal.was_opened(path) == {"classes": ["a", "b"], "asked": 1}
    for content in (b"", b"words\n", b"[]\n", b'{"run": {}}\n', b'{"opened": 3}\n', b"\xff\n"):
        path.write_bytes(content)
        assert Journal.was_opened(path) is None


def books(*budgets):
    """Nested ledgers, the outermost first."""
    ledgers = [Ledger(budgets[0])]
    for budget in budgets[1:]:
        ledgers.append(Ledger(budget, payer=ledgers[-1]))
    return ledgers


def test_a_payer_books_everything_and_can_refuse():
    whole, part, share = books(10, 8, 100)
    share.charge(3)
    share.charge_again(2)
    assert [(book.spent, book.resent) for book in (whole, part, share)] == [(5, 2)] * 3
    with pytest.raises(OutOfQueries, match="budget of 8"):
        share.charge(4)
    whole.charge(5)
    for refused in (share.charge, share.charge_again, part.charge, whole.charge_again):
        with pytest.raises(OutOfQueries, match="budget of 10"):
            refused(1)
    assert [(book.spent, book.resent) for book in (whole, part, share)] == [(10, 2), (5, 2), (5, 2)]
    assert [book.left for book in (whole, part, share)] == [0, 3, 95]


@pytest.mark.parametrize("seed", range(20))
def test_no_budget_is_exceeded_whatever_fails(seed, tmp_path):
    # Requests fail and are sent again, processes die and go on, until nothing more is paid for.
    random = np.random.default_rng(seed)
    budgets = random.integers(20, 60, 3)
    requests = [(int(random.integers(1, 6)), k) for k in range(30)]
    path, received = tmp_path / NAME, 0

    class Unreliable(Model):
        def __call__(self, images, sending):
            nonlocal received
            received += len(images)
            while random.random() < 0.3:
                number = int(random.integers(1, len(images) + 1))
                sending(number)
                received += number
            if random.random() < 0.1:
                raise Dies
            return super().__call__(images, sending)

    for _ in range(100):
        ledgers = books(*budgets)
        try:
            run(path, requests, Unreliable(), resume=path.exists(), ledger=ledgers[-1])
        except Dies:
            assert ledgers[0].spent == received
            continue
        except OutOfQueries:
            pass
        break
    for ledger in ledgers:
        assert ledger.spent <= ledger.budget
    assert ledgers[0].spent - received in range(6)  # booked, and then not sent
    # Whoever is given all of it ends at the same place, with the same books.
    again = books(*budgets)
    model = Model()
    with pytest.raises(OutOfQueries):
        run(path, requests, model, resume=True, ledger=again[-1])
    assert model.received == 0
    assert [(b.spent, b.resent) for b in again] == [(b.spent, b.resent) for b in ledgers]


def test_what_follows_a_request_that_nobody_paid_for_is_given_back_too(tmp_path):
    # A run whose budget does not pay for sending a large request again goes on with small ones.
    path, requests = tmp_path / NAME, [(3, 0), (6, 1), (1, 2), (1, 3)]

    def go(model, resume, ledger):
        journal = Journal(path, RUN, resume)
        foreign = HostAnswers("model", model, "logits", 5, lambda x: x, batch=None, most=None)
        books = Books(ledger, journal)
        found = []
        for number, seed in requests:
            try:
                ledger.charge(number)
                found.append(foreign(images_of(number, seed), books))
            except OutOfQueries:
                found.append(None)
        journal.close()
        return found

    ledger = Ledger(12)
    found = go(Model(again=()), False, ledger)
    assert ledger.spent == 11
    path.unlink()

    class Fails(Model):
        def __call__(self, images, sending):
            if len(images) == 6:
                sending(1)
                sending(6)
            return super().__call__(images, sending)

    ledger = Ledger(12)
    found = go(Fails(), False, ledger)
    assert [one is None for one in found] == [False, True, False, False]
    assert (ledger.spent, ledger.resent) == (12, 1)
    for _ in range(2):
        model, again = Model(), Ledger(12)
        back = go(model, True, again)
        assert model.received == 0
        assert (again.spent, again.resent) == (12, 1)
        same([one for one in back if one is not None], [one for one in found if one is not None])
        assert [one is None for one in back] == [one is None for one in found]


@pytest.mark.parametrize(
    ("access", "outputs", "said"),
    [
        ("labels", np.zeros(0, np.int64), "must answer 3 labels in 0 to 4, not 0"),
        ("labels", np.array([0, 5, 1]), "must answer 3 labels in 0 to 4, not 3 in 0 to 5"),
        ("labels", np.array([0, -1, 1]), "not 3 in -1 to 1"),
        ("labels", np.array([0, 1]), "not 2 in 0 to 1"),
        ("logits", np.zeros(3, np.int64), "say `access` labels"),
        ("logits", np.zeros((3, 4)), "shape (3, 5), not (3, 4)"),
        ("logits", np.zeros((2, 5)), "shape (3, 5), not (2, 5)"),
        ("logits", np.full((3, 5), "a"), "must answer with numbers, not <U1"),
        ("logits", np.full((3, 5), None), "must answer with numbers, not object"),
        ("logits", np.full((3, 5), 1j), "must answer with numbers, not complex128"),
        ("logits", np.full((3, 5), np.nan), "not finite"),
        ("logits", np.full((3, 5), 1e300), "not finite"),
        ("probabilities", np.full((3, 5), 0.5), "say `access` logits"),
        ("probabilities", np.full((3, 5), -0.2), "say `access` logits"),
    ],
)
def test_what_is_no_answer_is_refused_and_not_kept(access, outputs, said, tmp_path):
    model = HostAnswers("model", lambda *_: outputs, access, 5, lambda x: x, batch=None, most=None)
    kept = Books(journal=Journal(tmp_path / NAME, RUN, False))
    with pytest.raises(ModelError) as caught:
        model(images_of(3), kept)
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "outputs" not in (tmp_path / NAME).read_text()


def test_batches_of_one_size_are_filled_up_with_what_is_not_counted(tmp_path):
    sizes = []

    def ask(images, sending):
        sizes.append(len(images))
        return Model()(images, sending)

    foreign = HostAnswers("model", ask, "logits", 5, lambda x: x, batch=4, most=None)
    journal = Journal(tmp_path / NAME, RUN, False)
    outputs = foreign(images_of(10), Books(journal=journal))
    assert outputs.shape == (10, 5)
    assert sizes == [4, 4, 4]
    assert foreign.statistics()["images"] == 10
    journal.close()
    journal = Journal(tmp_path / NAME, RUN, True)
    same([foreign(images_of(10), Books(journal=journal))], [outputs])
    assert sizes == [4, 4, 4]


@pytest.mark.parametrize("resume", [True, False])
def test_a_journal_that_another_run_is_writing_is_left_alone(resume, tmp_path):
    path = tmp_path / NAME
    first = Journal(path, RUN, False)
    first.sending(3)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="still going on"):
        Journal(path, RUN, resume)
    assert path.read_bytes() == before
    first.close()
    Journal(path, RUN, resume).close()
