/*
 * Asserts guard against our own bugs and stay on in release: a broken invariant must stop the
 * process before it reaches the disk. Recovery then starts from what was durable. Bytes from disks,
 * networks and users are never asserted on; they give typed errors.
 */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void base_assert_failed(const char *cond, const char *file, int line)
{
    (void)fprintf(stderr, "levee: broken invariant at %s:%d: %s\n", file, line, cond);
    abort();
}
