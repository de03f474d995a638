/*
 * A preloaded library that moves the wall clock of one process, while it runs: the file named by
 * LEVEE_CLOCK_FILE holds eight bytes, the seconds to add, which the test changes through a mapping
 * of its own. The monotonic clocks stay as they are.
 *
 * A deadline that was made from the moved clock is moved back before the kernel sees it, where
 * librdkafka makes one (cnd_timedwait): the kernel's own clock has not jumped, and the wait would
 * last an hour, which it would not on a machine whose clock really did.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT */
#endif
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static const int64_t *shift;

__attribute__((constructor)) static void map_file(void)
{
    const char *path = getenv("LEVEE_CLOCK_FILE");
    int fd = path ? open(path, O_RDONLY) : -1;

    if (fd >= 0) {
        void *p = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0);
        shift = p == MAP_FAILED ? NULL : p;
        close(fd);
    }
}

static int64_t seconds(void)
{
    return shift ? __atomic_load_n(shift, __ATOMIC_SEQ_CST) : 0;
}

EXPORT int clock_gettime(clockid_t clock, struct timespec *ret)
{
    int code = (int)syscall(SYS_clock_gettime, clock, ret);

    if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        ret->tv_sec += seconds();
    }
    return code;
}

EXPORT int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
    struct timespec t;
    int code = clock_gettime(CLOCK_REALTIME, &t);

    (void)zone;
    ret->tv_sec = t.tv_sec;
    ret->tv_usec = t.tv_nsec / 1000;
    return code;
}

EXPORT time_t time(time_t *ret)
{
    struct timespec t = {0};

    (void)clock_gettime(CLOCK_REALTIME, &t);
    if (ret) {
        *ret = t.tv_sec;
    }
    return t.tv_sec;
}

EXPORT int timespec_get(struct timespec *ret, int base)
{
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, ret) == 0 ? base : 0;
}

EXPORT int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex,
                         const struct timespec *restrict deadline)
{
    static int (*next)(cnd_t *, mtx_t *, const struct timespec *);
    struct timespec real = *deadline;

    if (!next) {
        *(void **)&next = dlsym(RTLD_NEXT, "cnd_timedwait");
    }
    real.tv_sec -= seconds();
    return next(cond, mutex, &real);
}
