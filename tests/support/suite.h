/* Every unit test program ends with `return suite_main(suite);`. */
#ifndef LEVEE_TESTS_SUITE_H
#define LEVEE_TESTS_SUITE_H

#include <check.h>

/* Runs the suite (forked per test; CK_FORK=no in the environment turns that off), prints failures,
 * takes ownership. Check's time limit of 4 s per test, too short for a busy machine or a sanitizer,
 * becomes 60 s unless CK_DEFAULT_TIMEOUT says otherwise. */
int suite_main(Suite *suite);

/* Says loudly that the running test cannot run on this machine, and why; the test must return next.
 * It counts as skipped: Check, which knows nothing of that, counts it as passed, so suite_main then
 * ends with a sum of its own, which scripts/run-tests believes. Once per test. Thread: the test's.
 */
void suite_skip(const char *why);

/* For inner loops: Check's own asserts tell the parent of every success, a system call each. */
#define MUST(cond) ((cond) ? (void)0 : ck_abort_msg("%s:%d: not so: %s", __FILE__, __LINE__, #cond))

#endif
