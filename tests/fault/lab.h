/*
 * One levee directory in the laboratory: the job of crash_job.h on the simulated machine, where
 * every byte of the disk can be damaged, every step can fail and every power loss is one of many.
 *
 * A test starts, sends, ends lives in any way, touches the disk, starts again; the oracle judges
 * all published batches from the first on, and that nothing acknowledged is gone. Everything
 * follows from the seed. Functions that return false or a code say why in lab->why or lab->err.
 */
#ifndef LEVEE_TESTS_LAB_H
#define LEVEE_TESTS_LAB_H

#include "levee/testing.h"
#include "io/io_sim.h"
#include "runtime/context.h"
#include "tests/fault/crash_job.h"
#include "tests/support/suite.h"

#define LAB_DIR  "state"
#define LAB_WAL  "state/wal"
#define LAB_CKPT "state/checkpoint"
#define LAB_OUT  "out"

struct lab {
    struct levee_testing *sim;
    struct io *io;
    levee_context *ctx;
    levee_stream *source;
    levee_record_fn function;     /* what the job does with a line: job_to_pairs */
    struct levee_options options; /* tests may change them before a start */
    uint64_t seed;
    struct uuid context;
    uint64_t sent;   /* highest record ever pushed */
    uint64_t acked;  /* highest that any life called durable */
    uint64_t pushed; /* in this life */
    struct job_fold fold;
    struct levee_error err;
    char why[JOB_WHY];
    char said[1024]; /* the last warning */
};

void lab_open(struct lab *lab, uint64_t seed);
void lab_close(struct lab *lab); /* fails on leaks */

/* ---- lives ---- */
int lab_start(struct lab *lab); /* get_or_create and start */
void lab_must_start(struct lab *lab);
/* Pushes up to n records in small sets, with some time between, while the context lives. */
void lab_send(struct lab *lab, uint64_t n);
bool lab_stopped(struct lab *lab); /* by itself; why is in err */
/* Lets time pass until everything pushed is durable and published; false: it is not after
 * long. */
bool lab_settle(struct lab *lab);
int lab_drain(struct lab *lab); /* an orderly end; the context is freed */
void lab_kill(struct lab *lab); /* process death */
void lab_power_loss(struct lab *lab);
/* The disk as it is now, faults and their counters new. */
void lab_faults(struct lab *lab, struct sim_faults faults);

/* ---- judging ---- */
/* What is published so far is right, and nothing acknowledged is missing in this life. */
bool lab_fine(struct lab *lab);
/* A life without faults until every record sent, and some more, is published. */
bool lab_finish(struct lab *lab);
void lab_must_finish(struct lab *lab);
/* A start that must be refused with this code and leave every byte as it was. The text must name
 * `where` (part of a path or number; NULL: anything). */
void lab_must_refuse(struct lab *lab, int code, const char *where);

/* ---- the disk ---- */
/* What the log holds; release with wal_facts_release. */
void lab_scan(struct lab *lab, struct wal_facts *ret);
/* The bytes of a file, for damage. */
uint8_t *lab_bytes(struct lab *lab, const char *path, uint64_t *ret_size);
/* Path of the index-th file of a folder that ends in suffix; negative: from the last. */
const char *lab_file(struct lab *lab, const char *folder, const char *suffix, int index);
size_t lab_file_count(struct lab *lab, const char *folder, const char *suffix);
void lab_copy(struct lab *lab, const char *from, const char *to);
void lab_remove(struct lab *lab, const char *path);
/* All files below a folder as one value: to see that nothing was touched. */
uint64_t lab_hash(struct lab *lab);

/* Standard history: `records` sent and published, checkpoints or not, then killed. The last group
 * has a witness when `sealed`. */
void lab_history(struct lab *lab, uint64_t records, bool checkpoints, bool sealed);

#endif
