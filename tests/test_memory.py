import subprocess
import sys


def test_freed_memory_is_kept():
    code = (
        "import resource, sys, torch\n"
        "from lprnet_nb.memory import keep_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(8): torch.ones(4 << 20)\n"  # 16 MiB each: 4,096 pages
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "without = faults()\n"
        "assert keep_memory()\n"
        "faults()\n"  # the first blocks that are kept are new
        "print(without, faults())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    without, kept = map(int, done.stdout.split())
    assert kept < without / 4, (without, kept)
