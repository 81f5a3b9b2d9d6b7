/* LD_PRELOAD: the wall clock of a process is CLOCK_AHEAD_S seconds ahead; its other clocks are as they are.
   libfaketime would do, but breaks Python's sleep (clock_nanosleep with an absolute time). */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long ahead(void) {
  const char *text = getenv("CLOCK_AHEAD_S");
  return text ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *when) {
  int failed = syscall(SYS_clock_gettime, clock, when);
  if (!failed && clock == CLOCK_REALTIME) when->tv_sec += ahead();
  return failed;
}

int gettimeofday(struct timeval *when, void *zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  when->tv_sec = now.tv_sec;
  when->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *when) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (when) *when = now.tv_sec;
  return now.tv_sec;
}
