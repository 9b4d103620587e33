# shellcheck shell=bash
# What must not outlive a script, even one that is killed outright. Sourced.

# From now on TARGET, a process or -GROUP, is killed as soon as this script has died. A helper in a
# session of its own waits for the end of a pipe that this script alone holds open. It must not stay
# a child: "wait" for a command whose status bash has lost would go on for as long as there is one.
tie() { # TARGET
  exec {lifeline}> >(exec setsid -f bash -c "read -r -n 1 _ || kill -KILL -- $1" >/dev/null 2>&1)
}

# TARGET has ended, or may go on alone.
untie() {
  printf . >&"$lifeline" || true
  exec {lifeline}>&-
}
