"""Where the time of profiled batches went, by numbers that are made up."""

from types import SimpleNamespace

from torch.autograd import DeviceType

from callbacks.speed.profile_table import profile_table


def event(key, count, host, device=0.0, *, is_span=False, device_type=DeviceType.CPU):
    """Return what torch says of an operator; times in µs."""
    return SimpleNamespace(
        key=key,
        count=count,
        cpu_time_total=host,
        self_cpu_time_total=host,
        device_time_total=device,
        self_device_time_total=device,
        is_user_annotation=is_span,
        device_type=device_type,
    )


SPANS = [
    event("ProfilerStep*", 2, 8000, is_span=True),
    event("predict train", 2, 2000, is_span=True),
    event("backward train", 2, 4000, is_span=True),
]


def test_spans_and_the_slowest_operators_what_took_longest_first():
    operators = [event(f"aten::op{i}", 4, 100 * i) for i in range(8)]
    assert profile_table([*SPANS, *operators], 2).splitlines() == [
        "span                                       calls  ms a batch  share",
        "backward train                                 2       2.000  50.0%",
        "predict train                                  2       1.000  25.0%",
        "operator, by itself                        calls  ms a batch  share",
        "aten::op7                                      4       0.350   8.8%",
        "aten::op6                                      4       0.300   7.5%",
        "aten::op5                                      4       0.250   6.2%",
        "aten::op4                                      4       0.200   5.0%",
        "aten::op3                                      4       0.150   3.8%",
    ]


def test_beside_a_device_its_time_decides_and_what_it_mirrors_of_the_host_is_left_out():
    events = [
        event("ProfilerStep*", 1, 1000, is_span=True),
        event("predict train", 1, 500, 3000, is_span=True),
        event("predict train", 1, 0, 3000, is_span=True, device_type=DeviceType.CUDA),
        event("step train", 1, 400, 9000, is_span=True),
        event("aten::mm", 3, 100, 2500),
    ]
    assert profile_table(events, 1).splitlines() == [
        "span                                       calls  ms a batch  share ms of the device",
        "step train                                     1       0.400  40.0%            9.000",
        "predict train                                  1       0.500  50.0%            3.000",
        "operator, by itself                        calls  ms a batch  share ms of the device",
        "aten::mm                                       3       0.100  10.0%            2.500",
    ]


def test_of_nothing_it_has_its_heads_alone():
    assert len(profile_table([], 1).splitlines()) == 2
