#include "tests/fault/numbered.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

void numbered_add(Suite *suite, const TTest *test, double timeout_s)
{
    TCase *t = tcase_create(test->name);

    tcase_set_timeout(t, timeout_s);
    tcase_add_test(t, test);
    suite_add_tcase(suite, t);
}

void numbered_trials(const char *test, uint64_t trials)
{
    printf("trials %s %" PRIu64 "\n", test, trials);
}

uint64_t numbered_from(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

bool numbered_full(void)
{
    return numbered_from("LEVEE_FULL", 0) == 1;
}
