"""Imported by the server that jobs are forked from, and by nothing else: signals for a group of processes are theirs.

A cluster, or whoever ends a service, sends SIGTERM, SIGUSR1 or SIGUSR2 to every process that there is, and a terminal
that is closed sends SIGHUP. The server must outlive its jobs. So it blocks these signals, and a job, which begins like
it, unblocks SIGTERM and SIGHUP as soon as it listens: none is lost in between. SIGUSR1 and SIGUSR2 stay blocked there:
the sweep heeds them.
"""

import signal
import sys

from trainer.system import interpreters

assert sys.platform != "win32"  # which has no such server
interpreters.forget()  # the jobs are told by sys.path, which is that of the sweep
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
