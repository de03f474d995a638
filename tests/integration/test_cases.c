/*
 * The cases of the DStream model (tests/cases/, expectations from the Python reference): all of
 * them, by tests/case_runner, whose last line counts for this program.
 */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(void)
{
    const char *build = getenv("BUILD");
    char runner[512];
    glob_t files = {.gl_offs = 1}; /* room for the program's name */

    (void)snprintf(runner, sizeof runner, "%s/tests/case_runner",
                   build && *build ? build : "build/release");
    if (access(runner, X_OK) != 0) {
        (void)printf("SKIPPED: %s is not built: there is no cJSON\n0 passed, 0 failed, 1 skipped\n",
                     runner);
        return 0;
    }
    if (glob("tests/cases/*.json", GLOB_DOOFFS, NULL, &files) != 0) {
        (void)puts("no cases in tests/cases\n0 passed, 1 failed");
        return 1;
    }
    files.gl_pathv[0] = runner;
    execv(runner, files.gl_pathv);
    perror(runner);
    return 1;
}
