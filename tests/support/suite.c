#include "tests/support/suite.h"

#include <stdlib.h>

/* Before main, since Check reads the variable when a test case is made. */
__attribute__((constructor)) static void allow_more_time(void)
{
    (void)setenv("CK_DEFAULT_TIMEOUT", "60", 0);
}

int suite_main(Suite *suite)
{
    SRunner *runner = srunner_create(suite);

    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
