#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */ /* NOLINT(bugprone-reserved-identifier) */
#include "tests/support/suite.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Tests run in forked children: their count must lie in memory that parent and children share. No
 * file: a test program may stand between itself and its files (tests/support/interpose). */
static _Atomic int *skipped;

static void share_skipped(void)
{
    skipped =
        mmap(NULL, sizeof *skipped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (skipped == MAP_FAILED) {
        perror("suite: mmap");
        abort();
    }
}

void suite_skip(const char *why)
{
    (void)printf("SKIPPED: %s\n", why);
    (void)fflush(stdout);
    (void)atomic_fetch_add(skipped, 1);
}

/* Before main, since Check reads the variable when a test case is made. */
__attribute__((constructor)) static void allow_more_time(void)
{
    (void)setenv("CK_DEFAULT_TIMEOUT", "60", 0);
}

int suite_main(Suite *suite)
{
    share_skipped();
    SRunner *runner = srunner_create(suite);

    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    int run = srunner_ntests_run(runner);
    srunner_free(runner);
    if (*skipped) {
        (void)printf("%d passed, %d failed, %d skipped\n", run - failed - *skipped, failed,
                     *skipped);
    }
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
