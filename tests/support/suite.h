/* Every unit test program ends with `return suite_main(suite);`. */
#ifndef LEVEE_TESTS_SUITE_H
#define LEVEE_TESTS_SUITE_H

#include <check.h>

/* Runs the suite (forked per test; CK_FORK=no in the environment turns that off), prints failures, takes ownership. */
int suite_main(Suite *suite);

#endif
