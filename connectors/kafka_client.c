/*
 * Settings of Kafka clients, the classes of their answers, and their end. Nothing here asks: who
 * does keeps asking in a loop of its own, which ends when its owner is stopped.
 */
#include "connectors/kafka_client.h"

#include <pthread.h>

#define ASK_MAX_MS      2400
#define DESTROY_MAX_NS  2000000000u
#define DESTROY_LOOK_NS 2000000u

int kafka_set(rd_kafka_conf_t *conf, const char *name, const char *value, struct levee_error *err)
{
    char text[256];

    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) == RD_KAFKA_CONF_OK) {
        return LEVEE_OK;
    }
    err_set(err, LEVEE_EINVALID, "the Kafka client refuses %s=%s", name, value);
    err_found(err, "%s", text);
    return LEVEE_EINVALID;
}

int kafka_set_list(rd_kafka_conf_t *conf, const struct kafka_setting *list, size_t n,
                   struct levee_error *err)
{
    int code = LEVEE_OK;

    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        code = kafka_set(conf, list[i].name, list[i].value, err);
    }
    return code;
}

int kafka_set_user(rd_kafka_conf_t *conf, const char *property, const char *const *refused,
                   struct levee_error *err)
{
    const char *eq = strchr(property, '=');
    char name[128];

    if (!eq || eq == property || (size_t)(eq - property) >= sizeof name) {
        return err_set(err, LEVEE_EINVALID, "Kafka property \"%s\" is not name=value", property);
    }
    memcpy(name, property, (size_t)(eq - property));
    name[eq - property] = 0;
    for (; *refused; refused++) {
        if (strcmp(name, *refused) == 0) {
            return err_set(err, LEVEE_EINVALID,
                           "Kafka property %s may not be set: levee's promises rest on it", name);
        }
    }
    return kafka_set(conf, name, eq + 1, err);
}

static void drop_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    (void)rk;
    (void)level;
    (void)facility;
    (void)text;
}

void kafka_set_quiet(rd_kafka_conf_t *conf)
{
    rd_kafka_conf_set_log_cb(conf, drop_log);
}

/* ---- the end of a client ---- */

/* Shared by who waits and the thread that destroys; the last of them frees it. */
struct ending {
    rd_kafka_t *rk;
    _Atomic int left;
};

static void let_go(struct ending *e)
{
    if (atomic_fetch_sub(&e->left, 1) == 1) {
        mem_free(e);
    }
}

static void *destroy(void *arg)
{
    struct ending *e = arg;

    /* Nothing to commit and no group to leave: no waiting for a broker. */
    rd_kafka_destroy_flags(e->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    let_go(e);
    return NULL;
}

static bool has_ended(void *arg)
{
    return atomic_load(&((struct ending *)arg)->left) == 1;
}

bool kafka_destroy(struct io *io, rd_kafka_t *rk)
{
    struct ending *e = mem_zalloc(sizeof *e);
    uint64_t end = io->ops->now_ns(io) + DESTROY_MAX_NS, now;
    pthread_t thread;

    if (e) {
        e->rk = rk;
        atomic_store(&e->left, 2);
    }
    if (!e || pthread_create(&thread, NULL, destroy, e) != 0) {
        mem_free(e); /* then without a bound */
        rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
        return true;
    }
    (void)pthread_detach(thread);
    while (!has_ended(e) && (now = io->ops->now_ns(io)) < end) {
        (void)io->ops->wait(io, has_ended, e, now + DESTROY_LOOK_NS);
    }
    bool ended = has_ended(e);
    let_go(e);
    return ended;
}

/* ---- answers ---- */

int kafka_client_new(rd_kafka_type_t type, rd_kafka_conf_t *conf, rd_kafka_t **ret,
                     struct levee_error *err)
{
    char text[256];
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof text);

    if (!rk) {
        rd_kafka_conf_destroy(conf);
        return err_set(err, LEVEE_EINVALID, "the Kafka client does not start: %s", text);
    }
    *ret = rk;
    return LEVEE_OK;
}

rd_kafka_resp_err_t kafka_ask_topic(rd_kafka_t *rk, const char *topic, int timeout_ms,
                                    int32_t *ret_partitions)
{
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, topic, NULL);
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR__INVALID_ARG;

    if (rkt) {
        code = rd_kafka_metadata(rk, 0, rkt, &md, timeout_ms);
        rd_kafka_topic_destroy(rkt);
    }
    if (!code && md->topic_cnt == 1) {
        code = md->topics[0].err;
        *ret_partitions = md->topics[0].partition_cnt;
    } else if (!code) {
        code = RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    }
    if (md) {
        rd_kafka_metadata_destroy(md);
    }
    return code;
}

int kafka_ask_longer(int timeout_ms, rd_kafka_resp_err_t code)
{
    bool slow = code == RD_KAFKA_RESP_ERR__TIMED_OUT && timeout_ms < ASK_MAX_MS;

    return slow ? timeout_ms * 2 : timeout_ms;
}

bool kafka_forbidden(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
           code == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
           code == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
}

bool kafka_unknown(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
           code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
           code == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION ||
           code == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
}

bool kafka_copy_strings(const char *const *list, char ***ret, size_t *ret_count)
{
    size_t n = 0;

    *ret = NULL;
    *ret_count = 0;
    while (list && list[n]) {
        n++;
    }
    if (n == 0) {
        return true;
    }
    *ret = mem_zalloc(n * sizeof **ret);
    if (!*ret) {
        return false;
    }
    while (*ret_count < n) {
        char *copy = mem_strdup(list[*ret_count]);
        if (!copy) {
            return false;
        }
        (*ret)[(*ret_count)++] = copy;
    }
    return true;
}

void kafka_free_strings(char **list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        mem_free(list[i]);
    }
    mem_free(list);
}
