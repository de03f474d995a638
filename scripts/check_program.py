"""Runs one of the test programs in full and reads what it says: for scripts/fault and fault-kafka."""
import os
import re
import signal
import subprocess

RESULT = re.compile(r"^[^:\n]*:\d+:([PFE]):[^:]*:([^:]*):(\d+): (.*)$", re.M)
TRIALS = re.compile(r"^trials (\w+) (\d+)$", re.M)


def run(build, source, limit_s, **more):
    """(results, text) of the program made from source: results are test → {iteration: failure or
    None}. `more` goes into its environment; a program that takes longer than limit_s is killed."""
    env = dict(os.environ, CK_VERBOSITY="verbose", LEVEE_FULL="1", BUILD=build,
               CK_DEFAULT_TIMEOUT="600", **more)
    with subprocess.Popen([os.path.join(build, source[:-2])], env=env, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          start_new_session=True) as process:
        try:
            text = process.communicate(timeout=limit_s)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text = process.communicate()[0].decode("utf-8", "replace")
    results = {}
    for letter, test, iteration, message in RESULT.findall(text):
        results.setdefault(test, {})[int(iteration)] = None if letter == "P" else message
    return results, text
