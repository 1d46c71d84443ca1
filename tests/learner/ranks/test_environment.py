"""Which process of a job this is, as launchers say it."""

import pytest

from learner.ranks.environment import Environment, environment, first_host

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node7",
    "MASTER_PORT": "29501",
}
SLURM = {
    "SLURM_JOB_ID": "20123",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "node[07-08]",
}


def test_nobody_has_started_this_process():
    assert environment({}) is None


def test_torchrun_says_it():
    assert environment(TORCHRUN) == Environment(rank=5, world=8, local_rank=1, host="node7", port=29501)


def test_on_one_machine_the_rank_is_the_local_one():
    one = {name: value for name, value in TORCHRUN.items() if name != "LOCAL_RANK"}
    assert environment(one).local_rank == 5


def test_srun_says_it():
    assert environment(SLURM) == Environment(rank=5, world=8, local_rank=1, host="node07", port=20_123)


def test_jobs_of_slurm_on_one_machine_do_not_share_a_port():
    ports = {environment({**SLURM, "SLURM_JOB_ID": str(job)}).port for job in range(99_000, 99_100)}
    assert len(ports) == 100
    assert min(ports) >= 1024
    assert max(ports) < 65_536


def test_what_a_person_has_set_counts_within_srun():
    found = environment({**SLURM, "MASTER_ADDR": "login", "MASTER_PORT": "4711"})
    assert (found.host, found.port) == ("login", 4711)


def test_torchrun_under_srun_counts():
    assert environment({**SLURM, **TORCHRUN, "RANK": "2"}).rank == 2


@pytest.mark.parametrize("step", [None, "batch", "extern", "4294967291x"])
def test_a_shell_within_a_job_of_slurm_is_one_process(step):
    """Its script has as many tasks in its environment as `srun` would start, and is none of them."""
    shell = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}
    assert environment(shell if step is None else {**shell, "SLURM_STEP_ID": step}) is None


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"])
def test_what_is_no_number_is_named(name):
    with pytest.raises(ValueError, match=f"`{name}` must be a whole number in the environment, got 'x'; start"):
        environment({**TORCHRUN, name: "x"})


def test_what_is_missing_is_named():
    for name in ("MASTER_PORT", "MASTER_ADDR"):
        rest = {key: value for key, value in TORCHRUN.items() if key != name}
        with pytest.raises(ValueError, match=f"`{name}` must be .*; start the script by `torchrun`"):
            environment(rest)
    rest = {key: value for key, value in SLURM.items() if key != "SLURM_LOCALID"}
    with pytest.raises(ValueError, match="`SLURM_LOCALID` must be a whole number in the environment, got None"):
        environment(rest)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("localhost", "localhost"),
        ("a1,a2", "a1"),
        ("node[07-09,12],login", "node07"),
        ("node[12,07-09]", "node12"),
        ("gpu[3]-ib", "gpu3-ib"),
        ("n[001-128]", "n001"),
        ("a,b[1-2]", "a"),
        ("", ""),
    ],
)
def test_the_first_machine_of_a_list_as_slurm_writes_it(nodes, first):
    assert first_host(nodes) == first
