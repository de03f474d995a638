/*
 * The cases of the DStream model (tests/cases/, expectations from the Python reference): all of
 * them, by tests/case_runner, whose last line counts for this program.
 */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_FILES 100

int main(void)
{
    const char *build = getenv("BUILD");
    char runner[512];
    char *args[MAX_FILES + 2] = {runner};
    glob_t files;

    (void)snprintf(runner, sizeof runner, "%s/tests/case_runner",
                   build && *build ? build : "build/release");
    if (access(runner, X_OK) != 0) {
        (void)printf("SKIPPED: %s is not built: there is no cJSON\n0 passed, 0 failed, 1 skipped\n",
                     runner);
        return 0;
    }
    if (glob("tests/cases/*.json", 0, NULL, &files) != 0 || files.gl_pathc > MAX_FILES) {
        (void)puts("no cases in tests/cases\n0 passed, 1 failed");
        return 1;
    }
    for (size_t i = 0; i < files.gl_pathc; i++) {
        args[i + 1] = files.gl_pathv[i];
    }
    execv(runner, args);
    perror(runner);
    return 1;
}
