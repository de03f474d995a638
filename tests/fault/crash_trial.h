/*
 * Lives of crash_child under a directory of their own, and the oracle that judges what they
 * publish. Covers process death: a SIGKILL leaves what was written, synced or not.
 *
 * After every life the oracle moves the published batch files away, as a consumer would, and folds
 * the input itself: every file must hold exactly the totals that its records change, the records of
 * the files follow one another without gap or overlap, no file appears twice, and what a sender was
 * told to be durable is durable in every later life.
 */
#ifndef LEVEE_TESTS_CRASH_TRIAL_H
#define LEVEE_TESTS_CRASH_TRIAL_H

#include "tests/fault/crash_job.h"

#include <stddef.h>
#include <sys/types.h>

#define TRIAL_KILLED      (-1) /* died by SIGKILL */
#define TRIAL_TOO_LATE    (-2) /* did not end in time: the point was not reached */
#define TRIAL_PATIENCE_MS 20000

struct trial {
    char root[256], dir[300], out[300], taken[300], acks[300], status_path[300], log[300];
    uint64_t seed;
    struct job_status *status;
    /* the oracle */
    struct job_fold fold; /* of what is published */
    uint64_t acked, appended;
    char why[JOB_WHY];
    /* Output that goes to Kafka instead of files; NULL: files. `collect` judges it from the
     * beginning. */
    const char *brokers, *topic;
    const char *also_brokers, *also_topic; /* a second sink; NULL: none */
    const char *properties[4];             /* of both; "name=value", ended by NULL */
    uint64_t parts;                        /* that a stranger saw so far */
    uint64_t part_bytes;                   /* of a transaction; 0: the default */
    uint64_t base;                         /* records that were before this output was there */
    bool (*collect)(struct trial *t);
};

struct trial_life {
    const char *point; /* NULL: none */
    uint64_t hit;
    bool idle, forever;
    bool stop;           /* SIGSTOP at the point instead of SIGKILL */
    bool close_fds;      /* the host closes descriptors that are not its own, once data flows */
    bool new_pids;       /* in a pid namespace of its own */
    uint64_t records;    /* without forever */
    uint32_t refresh_ms; /* of the Kafka sink */
    uint32_t timeout_ms; /* of its transactions */
    uint64_t ahead;      /* sets in flight; 0: as the seed says */
    uint64_t rate;       /* records a second; 0: as fast as levee takes them */
    int limit;           /* RLIMIT_…, where limit_to is not 0 */
    uint64_t limit_to;
};

void trial_open(struct trial *t, uint64_t seed);
void trial_map_status(struct trial *t); /* status_path, into status */
void trial_close(struct trial *t);      /* removes everything */
/* One life: exit code, TRIAL_KILLED or TRIAL_TOO_LATE. Judges afterwards: see trial_fine. */
int trial_run(struct trial *t, const struct trial_life *life);
/* The same in two halves, for kills from outside. */
pid_t trial_spawn(struct trial *t, const struct trial_life *life);
int trial_wait(struct trial *t, pid_t pid, int timeout_ms);
/* Until it has stopped itself at its point. */
void trial_wait_stopped(struct trial *t, pid_t pid);
/* Collects the output of the lives so far; false: something is lost or repeated, see t->why. */
bool trial_fine(struct trial *t);
/* A last life without kills until every record ever sent is in; false: see t->why. */
bool trial_finish(struct trial *t, uint64_t more);
/* The last lines that the children have printed, for messages. */
const char *trial_said(const struct trial *t);

/* Bytes behind the end of the log, as a group leaves them whose write was cut short. */
void trial_tear_tail(struct trial *t);
/* One bit of the newest checkpoint file; false: there is none. */
bool trial_flip_checkpoint(struct trial *t, uint64_t offset);
/* Path of the newest checkpoint file. */
const char *trial_newest_checkpoint(const struct trial *t);
/* Files and bytes below the state directory. */
void trial_size(const struct trial *t, size_t *ret_files, uint64_t *ret_bytes);

#endif
