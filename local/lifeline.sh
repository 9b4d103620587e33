# shellcheck shell=bash
# What must not outlive a script, even one that is killed outright. Sourced.

# An exported TMOUT would end every "read" from a pipe, those of these scripts' children too.
unset TMOUT

# From now on TARGET, a process or -GROUP, is killed as soon as this script has died. A helper in a
# session of its own waits for the end of a pipe that this script alone holds open. It must not stay
# a child: "wait" for a command whose status bash has lost would go on for as long as there is one.
tie() { # TARGET
  exec {lifeline}> >(exec setsid -f bash -c "read -r -n 1 _ || kill -KILL -- $1" >/dev/null 2>&1)
}

# TARGET has ended, or may go on alone. Should the helper have been killed, SIGPIPE ends a subshell.
untie() {
  (printf . >&"$lifeline") 2>/dev/null || true
  exec {lifeline}>&-
}
