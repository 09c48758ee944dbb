"""Takes the files in new/, one after the other, and leaves them in done/. Renaming a
file takes it: no other worker gets it too. A worker that is asked to stop finishes
the file that it has; one that is killed leaves it in its own directory.

    mkdir -p jobs/new jobs/done
    forkd run -- python3 job.py jobs
"""
import os
import signal
import sys
import time

jobs = sys.argv[1]
mine = os.path.join(jobs, "of-%d" % os.getpid())
stopping = False


def stop(number, frame):
    global stopping
    stopping = True


def take():
    for name in sorted(os.listdir(os.path.join(jobs, "new"))):
        try:
            os.rename(os.path.join(jobs, "new", name), os.path.join(mine, name))
            return name
        except FileNotFoundError:
            pass  # another worker's
    return None


signal.signal(signal.SIGTERM, stop)
os.makedirs(mine, exist_ok=True)
while not stopping:
    name = take()
    if name:
        time.sleep(0.02)  # the work
        os.rename(os.path.join(mine, name), os.path.join(jobs, "done", name))
    else:
        time.sleep(0.1)
os.rmdir(mine)
