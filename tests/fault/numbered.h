/*
 * Tests that stand for a number of the fault catalogue: named f<number>_<what happens>, each a case
 * of its own, so that CK_RUN_CASE=<name> runs it alone. scripts/fault reads their results.
 */
#ifndef LEVEE_TESTS_NUMBERED_H
#define LEVEE_TESTS_NUMBERED_H

#include "tests/support/suite.h"

#include <stdbool.h>
#include <stdint.h>

void numbered_add(Suite *suite, const TTest *test, double timeout_s);
/* How often the fault struck within the test that runs; said once, at its end. */
void numbered_trials(const char *test, uint64_t trials);
/* LEVEE_FULL=1: all of what is otherwise a sample. */
bool numbered_full(void);
/* The variable's number, or `otherwise`. */
uint64_t numbered_from(const char *name, uint64_t otherwise);

#endif
