"The fixtures of the 40 faults"
from conftest_of_faults import bench, broken_run, happened, pytest_sessionfinish # noqa: F401
