/*
 * levee testing: run a whole context on a simulated disk and clock, single-threaded, from a seed;
 * and check your own sink.
 */
#ifndef LEVEE_TESTING_H
#define LEVEE_TESTING_H

#include "levee/connect.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A simulated machine. Survives the contexts that run on it: free them, then crash it, then run the
 * next one. */
struct levee_testing;
struct levee_sim_options {
    uint64_t seed;
    uint64_t crash_at_step; /* power fails instead of the n-th I/O step; 0: never */
    uint32_t keep_per_mille, garble_per_mille; /* fate of unsynced sectors at a power loss */
    uint64_t fail_at_step;
    int fail_errno;
    uint64_t capacity_bytes;
    int64_t wall_ms; /* what the wall clock of a new machine shows; 0: its own idea */
};
LEVEE_API int levee_sim_new(struct levee_testing **ret, const struct levee_sim_options *options,
                            struct levee_error *err);
LEVEE_API void levee_sim_free(struct levee_testing *sim);
LEVEE_API void levee_sim_set(struct levee_testing *sim, const struct levee_sim_options *options);
LEVEE_API bool levee_sim_crashed(const struct levee_testing *sim);
/* After the contexts were freed: what the power loss (or process death) leaves becomes the disk. */
LEVEE_API void levee_sim_power_loss(struct levee_testing *sim);
LEVEE_API void levee_sim_kill(struct levee_testing *sim);
/* Advances virtual time, running what is due. */
LEVEE_API void levee_sim_run_ms(struct levee_testing *sim, uint64_t ms);
/* The machine's wall clock. */
LEVEE_API int64_t levee_sim_wall_ms(const struct levee_testing *sim);
LEVEE_API uint64_t levee_sim_steps(const struct levee_testing *sim);
/* A file of the simulated disk, copied (free with levee_sim_free_bytes); NULL: none. */
LEVEE_API uint8_t *levee_sim_read(struct levee_testing *sim, const char *path, size_t *ret_len);
LEVEE_API void levee_sim_free_bytes(uint8_t *bytes);

/* Real machine, but `hook` is called with the name of every named durable step (a test kills itself
 * there). */
LEVEE_API int levee_testing_crash_points(struct levee_testing **ret,
                                         void (*hook)(const char *name, void *arg), void *arg,
                                         struct levee_error *err);
LEVEE_API const char *const *levee_crash_point_names(size_t *ret_count);

/* ------------------------------------------------------------------ is your sink one? */

/*
 * Drives a sink through lives that a seed chooses: batches with empty partitions and binary values,
 * aborts, crashes between any two calls and inside commit, repeats, a lost token, another context;
 * and compares what a stranger sees with what the contract in connect.h promises for its kind.
 *
 * A crash drops the object without a call (`crash`, or a leak), so nothing that it holds in memory
 * may matter. Inside commit it happens where the sink says levee_sink_step().
 */
struct levee_sink_probe {
    const struct levee_sink_ops *ops;
    /* A new object on the place as it is. */
    void *(*make)(void *arg);
    /* Frees an object as a crash does: its memory, and nothing else. NULL: it is leaked. */
    void (*crash)(void *arg, void *self);
    /* Calls see(see_arg, record) for everything that a stranger sees there. */
    int (*read)(void *arg, void (*see)(void *see_arg, const struct levee_record *record),
                void *see_arg);
    /* An empty place. */
    int (*reset)(void *arg);
    /* The token vanishes, the data stays; NULL: it cannot. */
    int (*lose_token)(void *arg);
    bool text; /* values of letters only, for a place that cannot hold any byte */
    void *arg;
};
enum levee_sink_rule {
    LEVEE_SINK_KEEPS = 0,        /* the contract is kept */
    LEVEE_SINK_CALL_FAILED,      /* a call failed without a reason to */
    LEVEE_SINK_SHOWN_EARLY,      /* records were visible before their commit */
    LEVEE_SINK_RECORD_MISSING,   /* a committed record is not there */
    LEVEE_SINK_RECORD_TWICE,     /* a record is there more often than the kind allows */
    LEVEE_SINK_ABORT_LEFT,       /* what was aborted is visible */
    LEVEE_SINK_TOKEN_MISSING,    /* something was committed, last_token says never */
    LEVEE_SINK_TOKEN_AHEAD,      /* the token names a batch whose records are not there */
    LEVEE_SINK_TOKEN_BEHIND,     /* records are there whose batch the token does not know */
    LEVEE_SINK_LOSS_HIDDEN,      /* the token was lost, last_token says never */
    LEVEE_SINK_FOREIGN_ACCEPTED, /* another context's place was not noticed */
    LEVEE_SINK_STRANGE_RECORD    /* a record nobody wrote */
};
struct levee_sink_finding {
    enum levee_sink_rule rule;
    uint64_t seed; /* repeats it */
    char text[400];
};
/* Runs `lives` lives from a seed. LEVEE_OK: the contract was kept as far as was seen; SINK_FAILED:
 * *ret says which rule was broken, where, what was expected and found. Thread: the caller's. */
LEVEE_API int levee_sink_conformance(const struct levee_sink_probe *probe, uint64_t seed,
                                     uint32_t lives, struct levee_sink_finding *ret,
                                     struct levee_error *err);
/* For sinks under the driver, between two effects of one call; nothing happens elsewhere. */
LEVEE_API void levee_sink_step(void);
LEVEE_API const char *levee_sink_rule_name(enum levee_sink_rule rule);

#ifdef __cplusplus
}
#endif
#endif
