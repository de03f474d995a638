/*
 * What the examples share: words, and a context that drains on SIGTERM and SIGINT.
 *
 * levee installs no signal handlers, and its calls are not async-signal-safe: signals are blocked
 * in all threads, and one thread waits for them.
 */
#ifndef LEVEE_EXAMPLES_RUN_H
#define LEVEE_EXAMPLES_RUN_H

#include <levee/levee.h>

#include <pthread.h>
#include <signal.h>

#define DRAIN_MS 10000

static sigset_t stop_signals;

static void *drain_on_signal(void *ctx)
{
    int sig;

    if (sigwait(&stop_signals, &sig) == 0) {
        levee_drain(ctx, DRAIN_MS, NULL);
    }
    return NULL;
}

/* A line into its words, as keys. */
static inline int split(levee_output *out, const struct levee_record *line, void *arg)
{
    (void)arg;
    return levee_emit_words(out, line->value);
}

/* For options.log. */
static inline void log_line(void *arg, int level, const char *line)
{
    (void)arg;
    fprintf(stderr, "%s%s\n", level ? "warning: " : "", line);
}

/* Runs until the context stops; `after` (may be NULL) then sees it once more. Returns what main
 * returns. */
static int run(const struct levee_options *options, levee_setup_fn build, void *arg,
               int (*after)(levee_context *ctx, void *arg, struct levee_error *err))
{
    levee_context *ctx = NULL;
    struct levee_error err = {0};
    pthread_t waiter;
    int status = 0;

    sigemptyset(&stop_signals);
    sigaddset(&stop_signals, SIGTERM);
    sigaddset(&stop_signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &stop_signals, NULL); /* before any thread: all inherit it */
    if (levee_get_or_create(&ctx, options, build, arg, &err) || levee_start(ctx, &err)) {
        status = levee_print_error(stderr, &err);
    } else if (pthread_create(&waiter, NULL, drain_on_signal, ctx)) {
        status = 4;
    } else {
        status = levee_await(ctx, &err) ? levee_print_error(stderr, &err)
                 : after                ? after(ctx, arg, &err)
                                        : 0;
        pthread_kill(waiter, SIGINT); /* it waits for one; a stopped context refuses the drain */
        pthread_join(waiter, NULL);
    }
    levee_free(ctx);
    return status;
}

#endif
