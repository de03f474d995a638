/*
 * What a topic's configuration says about how long its records stay: whether it is compacted, and
 * the retention. Asking takes a right (DescribeConfigs) that a reader may not have: data mode asks
 * only when it would help to tell compaction from loss, and does without an answer; positions mode
 * cannot, since a compacted topic cannot be read again.
 */
#include "connectors/kafka_source.h"

#include <stdio.h>

#define ASK_MS 3000

static void setting(const rd_kafka_ConfigResource_t *resource, const char *name, char out[24])
{
    size_t n = 0;
    const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(resource, &n);

    for (size_t i = 0; i < n; i++) {
        const char *value = rd_kafka_ConfigEntry_value(entries[i]);
        if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), name) == 0 && value) {
            (void)snprintf(out, 24, "%s", value);
        }
    }
}

static rd_kafka_resp_err_t policy_of(const rd_kafka_event_t *event, struct kafka_policy *ret)
{
    size_t n = 0;
    const rd_kafka_DescribeConfigs_result_t *result =
        rd_kafka_event_DescribeConfigs_result((rd_kafka_event_t *)(uintptr_t)event);
    const rd_kafka_ConfigResource_t **resources =
        result ? rd_kafka_DescribeConfigs_result_resources(result, &n) : NULL;

    if (n != 1) {
        return RD_KAFKA_RESP_ERR__FAIL;
    }
    setting(resources[0], "cleanup.policy", ret->cleanup);
    setting(resources[0], "retention.ms", ret->retention_ms);
    setting(resources[0], "retention.bytes", ret->retention_bytes);
    return rd_kafka_ConfigResource_error(resources[0]);
}

rd_kafka_resp_err_t kafka_policy_ask(struct kafka_source *s, const char *topic,
                                     struct kafka_policy *ret)
{
    rd_kafka_ConfigResource_t *wanted = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(s->rk);
    rd_kafka_AdminOptions_t *options =
        rd_kafka_AdminOptions_new(s->rk, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    uint64_t end = kafka_now(s) + (uint64_t)ASK_MS * 1000000u;
    rd_kafka_event_t *event = NULL;
    char text[128];

    *ret = (struct kafka_policy){"unknown", "unknown", "unknown"};
    (void)rd_kafka_AdminOptions_set_request_timeout(options, ASK_MS, text, sizeof text);
    rd_kafka_DescribeConfigs(s->rk, &wanted, 1, options, queue);
    while (!event && !atomic_load(&s->stop) && kafka_now(s) < end) {
        event = rd_kafka_queue_poll(queue, KAFKA_POLL_MS);
    }
    if (event) {
        code = rd_kafka_event_error(event);
        code = code ? code : policy_of(event, ret);
        rd_kafka_event_destroy(event);
    }
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_queue_destroy(queue);
    rd_kafka_ConfigResource_destroy(wanted);
    return code;
}

/* ---- positions mode ---- */

/* Compacted: refused. Otherwise people are told how long a replay is possible. */
static int judge(struct kafka_source *s, const struct kafka_topic *t, const struct kafka_policy *p,
                 struct levee_error *err)
{
    const char *uid = levee_inlet_uid(s->inlet);

    if (strstr(p->cleanup, "compact")) {
        err_set(err, LEVEE_EUNSUPPORTED,
                "source %s: the compacted topic %s cannot be read in positions mode", uid, t->name);
        err_expected(err, "cleanup.policy delete, or data mode");
        err_found(err, "cleanup.policy %s", p->cleanup);
        return LEVEE_EUNSUPPORTED;
    }
    rt_say(s->inlet->ctx, 0,
           "source %s: positions mode: a replay reads topic %s again, which keeps retention.ms=%s, "
           "retention.bytes=%s",
           uid, t->name, p->retention_ms, p->retention_bytes);
    return LEVEE_OK;
}

/* Asked until there is an answer. */
static int check(struct kafka_source *s, struct kafka_topic *t, struct levee_error *err)
{
    int code = LEVEE_OK, timeout_ms = KAFKA_ASK_FIRST_MS;
    struct kafka_policy policy;
    char about[320];

    (void)snprintf(about, sizeof about, "configuration of topic %s (right DescribeConfigs)",
                   t->name);
    while (!t->policy_known && code == LEVEE_OK) {
        rd_kafka_resp_err_t rc = kafka_policy_ask(s, t->name, &policy);
        t->policy_known = rc == RD_KAFKA_RESP_ERR_NO_ERROR;
        code = rc ? kafka_no_answer(s, about, rc, &timeout_ms, err) : judge(s, t, &policy, err);
    }
    return code;
}

int kafka_policies_check(struct kafka_source *s, struct levee_error *err)
{
    int code = LEVEE_OK;

    for (size_t i = 0; s->config.positions && i < s->topic_count && code == LEVEE_OK; i++) {
        code = s->topics[i]->count ? check(s, s->topics[i], err) : LEVEE_OK;
    }
    return code;
}
