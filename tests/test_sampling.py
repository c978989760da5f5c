"""Which frames get a second look."""

from itertools import pairwise

from inference.service.cues import Glance
from inference.service.sampling import Sampler
from streams.events import Context, InputScores

CALM = Glance(detail=0.017, heat=0.011)
ATTACKED = Glance(detail=0.027, heat=0.016)
STREET = InputScores(
    reference_digest="d" * 64, inconsistency=0.19, largest=0.5, signed=-0.1, weak=0.045, heat=0.0115, high_pass=0.0105, blot=0.086
)
"""What a second look at a drawn street told."""
HIDDEN = InputScores(
    reference_digest="d" * 64, inconsistency=0.24, largest=0.7, signed=-0.65, weak=0.047, heat=0.0073, high_pass=0.011, blot=0.085
)
"""The same of a frame in which DeepFool hid the people."""
FLOODED = InputScores(
    reference_digest="d" * 64, inconsistency=0.6, largest=0.83, signed=0.6, weak=0.15, heat=0.034, high_pass=0.0127, blot=0.089
)
"""The same of one in which PGD conjured up a crowd."""


def saw(sampler: Sampler, scores: InputScores, glance: Glance = CALM, sequence: int = 0) -> None:
    sampler.saw("gate", sequence, Context.URBAN, scores, glance)


def settled(every: int, key: bytes = b"k", glance: Glance = CALM) -> Sampler:
    """A sampler that knows the camera "gate": its next sequence is 2000."""
    sampler = Sampler(every, key)
    for sequence in range(2000):
        if sampler.wants("gate", sequence, glance):
            saw(sampler, STREET, glance, sequence)
    return sampler


def test_a_calm_camera_costs_one_look_in_every_and_never_more_than_two_of_them_apart() -> None:
    sampler = settled(32)
    looked = [sequence for sequence in range(2016, 2016 + 3200) if sampler.wants("gate", sequence, CALM)]
    assert len(looked) == 100
    assert max(after - before for before, after in pairwise(looked)) < 64


def test_where_the_looks_fall_depends_on_a_key_that_no_camera_knows() -> None:
    places = {
        tuple(sequence for sequence in range(2016, 2336) if sampler.wants("gate", sequence, CALM))
        for sampler in (settled(32, b"one"), settled(32, b"other"))
    }
    assert len(places) == 2


def test_a_new_camera_is_looked_at_eight_times_as_often() -> None:
    sampler, looks = Sampler(32, b"k"), 0
    for sequence in range(96):
        if sampler.wants("gate", sequence, CALM):
            saw(sampler, STREET)
            looks += 1
    assert looks == 24


def test_a_leap_of_the_glance_is_looked_at_in_that_very_frame_and_unusual_looks_keep_the_camera_looked_at() -> None:
    sampler = settled(32)
    for sequence in range(2000, 2003):
        assert sampler.wants("gate", sequence, ATTACKED)
        saw(sampler, FLOODED, ATTACKED, sequence)
    assert sampler.hot("gate")
    looks = [sampler.wants("gate", sequence, ATTACKED) for sequence in range(2004, 2064)]
    assert looks == [True, False] * 30  # it alarms: calm is proven by every second frame


def test_an_alarm_keeps_the_camera_looked_at_until_calm_is_proven() -> None:
    sampler = settled(32)
    for sequence in range(2000, 2010):
        saw(sampler, FLOODED, ATTACKED, sequence)
    looks = 0
    while sampler.hot("gate"):
        saw(sampler, STREET)
        looks += 1
    assert 20 <= looks <= 30


def test_honest_change_becomes_usual_and_costs_a_few_looks() -> None:
    sampler, dusk = settled(32), Glance(detail=0.010, heat=0.011)
    looks = 0
    for sequence in range(2000, 2320):
        if sampler.wants("gate", sequence, dusk):
            saw(sampler, STREET, dusk, sequence)
            looks += 1
    assert looks < 30


def test_a_flickering_camera_gets_a_look_in_eight_and_the_calm_ones() -> None:
    sampler, looks = settled(32), 0
    for sequence in range(2000, 2000 + 1600):
        flicker = Glance(detail=0.017 * (2.5 if sequence // 3 % 2 else 0.4), heat=0.011)
        if sampler.wants("gate", sequence, flicker):
            saw(sampler, STREET, flicker, sequence)
            looks += 1
    assert looks <= 12 + 1600 / 8 + 1600 / 32


def test_one_unusual_look_asks_for_the_next_frames_and_two_for_twice_as_many() -> None:
    sampler = settled(32)
    free = next(sequence for sequence in range(2000, 2064) if not sampler.wants("gate", sequence, CALM))
    for unusual, looks in ((1, 12), (2, 24)):
        for _ in range(unusual):
            saw(sampler, HIDDEN)
        for _ in range(looks):
            assert sampler.hot("gate")
            assert sampler.wants("gate", free, CALM)
            saw(sampler, STREET)
        assert not sampler.hot("gate")
    assert not sampler.hot("bridge")


def test_people_who_vanish_from_one_frame_to_the_next_are_looked_for() -> None:
    crowd, nobody, fewer = (Glance(CALM.detail, CALM.heat, people) for people in (4.0, 1.0, 3.0))
    sampler = settled(32, glance=crowd)
    free = next(sequence for sequence in range(2016, 2048) if not sampler.wants("gate", sequence, crowd))
    assert sampler.wants("gate", free, nobody)
    assert not sampler.wants("gate", free, fewer)


def test_another_model_in_service_sees_other_heat_and_startles_nobody() -> None:
    sampler = settled(32)
    other = Glance(CALM.detail, 5 * CALM.heat, people=9.0, seen_by="other")
    assert sum(sampler.wants("gate", sequence, other) for sequence in range(2016, 2048)) == 1


def test_in_safe_mode_every_second_frame_of_a_camera_that_leapt_is_looked_at_until_normal_service_is_back() -> None:
    sampler = settled(32)
    saw(sampler, HIDDEN)
    assert sampler.wants("gate", 2000, CALM, safe=True)
    for _ in range(40):
        saw(sampler, STREET)  # not hot any more, and calm is not proven yet
    looks = [sampler.wants("gate", sequence, CALM, safe=True) for sequence in range(2000, 2064)]
    assert looks == [True, False] * 32
    assert sum(sampler.wants("bridge", sequence, CALM, safe=True) for sequence in range(320, 640)) < 320 / 2
    assert sum(sampler.wants("gate", sequence, CALM) for sequence in range(2080, 2144)) == 2
