"""Which frames get a second look."""

from itertools import pairwise

from inference.service.cues import Cues, Glance
from inference.service.sampling import Sampler

CALM = Glance(detail=0.017, heat=0.011)
ATTACKED = Glance(detail=0.027, heat=0.016)


def seen(inconsistency: float, largest: float = 0.4, blot: float = 0.1) -> Cues:
    return Cues(inconsistency=inconsistency, largest=largest, signed=0.0, weak=0.03, heat=0.011, high_pass=0.01, blot=blot)


def settled(every: int, key: bytes = b"k") -> Sampler:
    """A sampler that knows the camera "gate": its next sequence is 2000."""
    sampler = Sampler(every, key)
    for sequence in range(2000):
        if sampler.wants("gate", sequence, CALM):
            sampler.saw("gate", seen(0.15), CALM)
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
            sampler.saw("gate", seen(0.15), CALM)
            looks += 1
    assert looks == 24


def test_a_leap_of_the_glance_is_looked_at_in_that_very_frame_and_a_leaping_score_keeps_all_frames_looked_at() -> None:
    sampler = settled(32)
    for sequence in range(2000, 2100):
        assert sampler.wants("gate", sequence, ATTACKED)
        sampler.saw("gate", seen(0.29), ATTACKED)
    assert sampler.hot("gate")
    for sequence in range(2100, 2124):
        assert sampler.wants("gate", sequence, CALM)
        sampler.saw("gate", seen(0.15), CALM)
    assert not sampler.hot("gate")


def test_honest_change_becomes_usual_and_costs_a_few_looks() -> None:
    sampler, dusk = settled(32), Glance(detail=0.010, heat=0.011)
    looks = 0
    for sequence in range(2000, 2320):
        if sampler.wants("gate", sequence, dusk):
            sampler.saw("gate", seen(0.16), dusk)
            looks += 1
    assert looks < 30


def test_a_flickering_camera_gets_a_look_in_eight_and_the_calm_ones() -> None:
    sampler, looks = settled(32), 0
    for sequence in range(2000, 2000 + 1600):
        flicker = Glance(detail=0.017 * (2.5 if sequence // 3 % 2 else 0.4), heat=0.011)
        if sampler.wants("gate", sequence, flicker):
            sampler.saw("gate", seen(0.15), flicker)
            looks += 1
    assert looks <= 12 + 1600 / 8 + 1600 / 32


def test_the_sampler_looks_closer_after_a_leap_and_does_not_learn_from_it() -> None:
    sampler = settled(32)
    free = next(sequence for sequence in range(2000, 2064) if not sampler.wants("gate", sequence, CALM))
    sampler.saw("gate", seen(0.9), CALM)
    assert sampler.wants("gate", free, CALM)
    assert not sampler.hot("bridge")
    for _ in range(100):
        sampler.saw("gate", seen(0.9), CALM)
    assert sampler.hot("gate")
    for _ in range(30):
        sampler.saw("gate", seen(0.15), CALM)
    assert not sampler.wants("gate", free, CALM)


def test_an_attack_on_one_person_and_a_patch_keep_all_frames_looked_at_too() -> None:
    for strange in (seen(0.16, largest=0.9), seen(0.16, blot=0.2)):
        sampler = settled(32)
        assert not sampler.hot("gate")
        sampler.saw("gate", strange, CALM)
        assert sampler.hot("gate")


def test_one_leap_costs_half_as_many_looks_as_two() -> None:
    sampler = settled(32)
    for leaps, looks in ((1, 12), (2, 24)):
        for _ in range(leaps):
            sampler.saw("gate", seen(0.9), CALM)
        for _ in range(looks):
            assert sampler.hot("gate")
            sampler.saw("gate", seen(0.15), CALM)
        assert not sampler.hot("gate")


def test_another_model_in_service_sees_other_heat_and_startles_nobody() -> None:
    sampler = settled(32)
    looks = [sampler.wants("gate", sequence, Glance(CALM.detail, 5 * CALM.heat, "other")) for sequence in range(2016, 2048)]
    assert sum(looks) == 1


def test_in_safe_mode_every_second_frame_of_a_camera_that_leapt_is_looked_at_until_normal_service_is_back() -> None:
    sampler = settled(32)
    sampler.saw("gate", seen(0.9), CALM)
    assert sampler.wants("gate", 2000, CALM, safe=True)
    for _ in range(40):
        sampler.saw("gate", seen(0.15), CALM)  # not hot any more, and calm is not proven yet
    looks = [sampler.wants("gate", sequence, CALM, safe=True) for sequence in range(2000, 2064)]
    assert looks == [True, False] * 32
    assert sum(sampler.wants("bridge", sequence, CALM, safe=True) for sequence in range(320, 640)) < 320 / 2
    assert sum(sampler.wants("gate", sequence, CALM) for sequence in range(2080, 2144)) == 2
