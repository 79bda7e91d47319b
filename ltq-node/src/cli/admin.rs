//! `ltq topic`, `ltq channel` and `ltq stats`.

use ltq_client::{ChannelStats, TopicOptions, TopicStats};
use ltq_core::{ChannelName, RefusalCode, TopicName};
use serde::Serialize;
use serde_json::json;

use super::{
    CliError,
    args::{ChannelCommand, ServerArgs, TopicCommand},
    connect,
    publish::print_json,
    tables,
};
use crate::output;

pub(super) async fn topic(
    server: &ServerArgs,
    command: TopicCommand,
    json: bool,
) -> Result<(), CliError> {
    let client = connect(server).await?;
    let admin = client.admin();
    match command {
        TopicCommand::List => {
            let topics = admin.list_topics().await?;
            print_names(topics.iter().map(TopicName::as_str), json)?;
        }
        TopicCommand::Create { topic, durability, retention } => {
            let options = TopicOptions { durability, retention: retention.change() };
            admin.create_topic(&topic, options).await?;
            done(json, format_args!("topic {topic} is there"))?;
        }
        TopicCommand::Alter { topic, retention } => {
            admin.alter_topic(&topic, retention.change()).await?;
            done(json, format_args!("topic {topic} is altered"))?;
        }
        TopicCommand::Show { topic } => {
            let stats = admin.show_topic(&topic).await?;
            print(&stats, json, || tables::topic(&stats))?;
        }
        TopicCommand::Delete { topic } => {
            admin.delete_topic(&topic).await?;
            done(json, format_args!("topic {topic} is deleted"))?;
        }
        TopicCommand::Pause { topic } => {
            admin.pause_topic(&topic).await?;
            done(json, format_args!("topic {topic} is paused"))?;
        }
        TopicCommand::Resume { topic } => {
            admin.resume_topic(&topic).await?;
            done(json, format_args!("topic {topic} is resumed"))?;
        }
    }
    Ok(client.close().await?)
}

pub(super) async fn channel(
    server: &ServerArgs,
    command: ChannelCommand,
    json: bool,
) -> Result<(), CliError> {
    let client = connect(server).await?;
    let admin = client.admin();
    match command {
        ChannelCommand::List { topic } => {
            let stats = admin.show_topic(&topic).await?;
            print_names(stats.channels.iter().map(|stats| stats.channel.as_str()), json)?;
        }
        ChannelCommand::Create { topic, channel, from } => {
            admin.create_channel(&topic, &channel, from).await?;
            done(json, format_args!("channel {channel} of topic {topic} is there"))?;
        }
        ChannelCommand::Show { topic, channel } => {
            let stats = admin.show_topic(&topic).await?;
            let stats = find(&stats, &channel)?;
            print(stats, json, || tables::channel(stats))?;
        }
        ChannelCommand::Delete { topic, channel } => {
            admin.delete_channel(&topic, &channel).await?;
            done(json, format_args!("channel {channel} of topic {topic} is deleted"))?;
        }
        ChannelCommand::Pause { topic, channel } => {
            admin.pause_channel(&topic, &channel).await?;
            done(json, format_args!("channel {channel} of topic {topic} is paused"))?;
        }
        ChannelCommand::Resume { topic, channel } => {
            admin.resume_channel(&topic, &channel).await?;
            done(json, format_args!("channel {channel} of topic {topic} is resumed"))?;
        }
    }
    Ok(client.close().await?)
}

pub(super) async fn stats(server: &ServerArgs, json: bool) -> Result<(), CliError> {
    let client = connect(server).await?;
    let stats = client.admin().stats().await?;
    print(&stats, json, || tables::node(&stats))?;
    Ok(client.close().await?)
}

fn find<'a>(stats: &'a TopicStats, channel: &ChannelName) -> Result<&'a ChannelStats, CliError> {
    stats.channels.iter().find(|stats| stats.channel == *channel).ok_or_else(|| {
        let code = RefusalCode::NoSuchChannel;
        let topic = &stats.topic;
        CliError::Failed(format!("{code}: there is no channel {channel} in topic {topic}"))
    })
}

fn print_names<'a>(names: impl Iterator<Item = &'a str>, json: bool) -> Result<(), CliError> {
    if json {
        return print_json(&json!(names.collect::<Vec<_>>()));
    }
    for name in names {
        line(name)?;
    }
    Ok(())
}

fn print(value: &impl Serialize, json: bool, table: impl Fn() -> String) -> Result<(), CliError> {
    if !json {
        return line(&table());
    }
    match serde_json::to_value(value) {
        Ok(value) => print_json(&value),
        Err(error) => Err(CliError::Failed(format!("the answer cannot be shown: {error}"))),
    }
}

fn done(json: bool, what: std::fmt::Arguments<'_>) -> Result<(), CliError> {
    if json { print_json(&json!({ "done": true })) } else { line(&what.to_string()) }
}

fn line(text: &str) -> Result<(), CliError> {
    output::line(text).map_err(|source| CliError::Io { doing: "writing the output", source })
}
