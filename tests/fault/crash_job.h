/*
 * The job that is killed: numbered records with a key and a value, and what they are. The child
 * that runs them through levee (crash_child.c) and the tests that judge its output share this
 * description of the input, and nothing else.
 */
#ifndef LEVEE_TESTS_CRASH_JOB_H
#define LEVEE_TESTS_CRASH_JOB_H

#include <stdbool.h>
#include <stdint.h>

#define JOB_KEYS 24
#define JOB_SET  12    /* records appended together */
#define JOB_ALL  "all" /* the key that counts every record */

struct job_record {
    unsigned key; /* below JOB_KEYS */
    int64_t value;
    unsigned padding; /* bytes that fill the log */
};
struct job_record job_record(uint64_t seed, uint64_t number);

/* What the child tells while it lives, in a file mapped by both: a SIGKILL leaves it as it was. */
struct job_status {
    uint64_t appended;  /* highest record number handed to levee */
    uint64_t completed; /* records of batches that every sink has committed, in this life */
    uint64_t started;   /* appended when this life was ready */
    uint64_t taken;     /* records that this life's batches took: new ones and those of replays */
    uint64_t hits[128]; /* of each named point, in this life */
};

#endif
