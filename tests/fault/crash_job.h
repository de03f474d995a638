/*
 * The job that is killed, damaged and starved: numbered records with a key and a value, run through
 * levee by crash_child.c (real processes) and lab.c (the simulated machine), and the oracle that
 * judges the output. Both sides know what the input is, and nothing else of each other.
 */
#ifndef LEVEE_TESTS_CRASH_JOB_H
#define LEVEE_TESTS_CRASH_JOB_H

#include "levee/levee.h"

#define JOB_KEYS 24
#define JOB_SET  12    /* records appended together */
#define JOB_ALL  "all" /* the key that counts every record */

struct job_record {
    unsigned key; /* below JOB_KEYS */
    int64_t value;
    unsigned padding; /* bytes that fill the log */
};
struct job_record job_record(uint64_t seed, uint64_t number);
/* The record as a line of text; returns its length. */
#define JOB_TEXT_MAX 640
size_t job_text(uint64_t seed, uint64_t number, char out[JOB_TEXT_MAX]);
/* levee's side: the line to (key, value) and (all, 1). */
int job_to_pairs(levee_output *out, const struct levee_record *line, void *arg);

/*
 * The oracle's side: a fold of the input, moved on by every published batch. A batch file must hold
 * exactly the totals that its records change, and its records must follow those of the batch
 * before.
 */
struct job_fold {
    uint64_t seed, records, last_batch;
    int64_t totals[JOB_KEYS];
};
#define JOB_WHY 512
/* `sent`: no more records than this can be in it. false: `why` says what is lost or repeated. */
bool job_judge(struct job_fold *fold, uint64_t batch, const char *text, size_t len, uint64_t sent,
               char why[JOB_WHY]);

/* What the child tells while it lives, in a file mapped by both: a SIGKILL leaves it as it was. */
struct job_status {
    uint64_t appended;  /* highest record number handed to levee */
    uint64_t completed; /* records of batches that every sink has committed, in this life */
    uint64_t started;   /* appended when this life was ready */
    uint64_t taken;     /* records that this life's batches took: new ones and those of replays */
    uint64_t hits[128]; /* of each named point, in this life */
};

#endif
