//! What the command line takes.

use std::time::Duration;

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use ltq_core::{Durability, Keep, Offset, RetentionChange, StartAt, Timestamp};

use super::{ChannelCommand, Cli, CliError, Command, Format, TopicCommand};

fn parse(line: &str) -> Cli {
    let words = ["ltq"].into_iter().chain(line.split_whitespace());
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refused(line: &str) -> clap::Error {
    let words = ["ltq"].into_iter().chain(line.split_whitespace());
    match Cli::try_parse_from(words) {
        Ok(cli) => panic!("{line} is taken: {cli:?}"),
        Err(error) => error,
    }
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn the_node_is_named_anywhere_on_the_line() {
    for line in [
        "--server tcp://a:1 --token t --timeout 3s --json stats",
        "stats --server tcp://a:1 --token t --timeout 3s --json",
    ] {
        let cli = parse(line);
        assert!(cli.server.servers().eq(["tcp://a:1"]));
        assert_eq!(cli.server.token, Some("t".into()));
        assert_eq!(cli.server.timeout, Duration::from_secs(3));
        assert!(cli.json);
    }
    let cli = parse("stats");
    assert!(!cli.json);
    assert_eq!(cli.server.timeout, Duration::from_secs(10));
}

#[test]
fn every_option_of_pub_is_taken() {
    let line = "pub t body --key k --header a=1 --header b=x=y --durability os --name p";
    let Command::Pub(args) = parse(line).command else { panic!() };
    assert_eq!((args.topic.as_str(), args.body.as_deref()), ("t", Some("body")));
    assert_eq!(args.key.as_deref(), Some("k"));
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(args.headers, [header("a", "1"), header("b", "x=y")]);
    assert_eq!(args.durability, Some(Durability::Os));
    assert_eq!(args.name.unwrap().as_str(), "p");
    let Command::Pub(args) = parse("pub t").command else { panic!() };
    assert_eq!(args.body, None);
}

#[test]
fn every_option_of_sub_is_taken() {
    let line = "sub t c --count 3 --format json --from @123 --credit 7";
    let Command::Sub(args) = parse(line).command else { panic!() };
    assert_eq!((args.topic.as_str(), args.channel.as_str()), ("t", "c"));
    assert_eq!((args.count, args.credit, args.format), (Some(3), 7, Format::Json));
    assert_eq!(args.from, StartAt::Time(Timestamp(123)));
    for time in ["2027-01-31T12:00:00Z", "2027-01-31T12:00:00.000"] {
        let Command::Sub(args) = parse(&format!("sub t c --from {time}")).command else { panic!() };
        assert_eq!(args.from, StartAt::Time(Timestamp(1_801_396_800_000)));
    }
    let Command::Sub(args) = parse("sub t c#ephemeral --from 9").command else { panic!() };
    assert_eq!((args.count, args.format), (None, Format::Body));
    assert_eq!(args.from, StartAt::Offset(Offset(9)));
}

#[test]
fn topics_and_channels_are_administered() {
    let Command::Topic(TopicCommand::Create { topic, durability, retention }) =
        parse("topic create t --durability memory").command
    else {
        panic!()
    };
    assert_eq!((topic.as_str(), durability), ("t", Some(Durability::Memory)));
    assert_eq!(retention.change(), RetentionChange::default());
    let line = "topic alter t --keep all --age-max 7d --bytes-max none";
    let Command::Topic(TopicCommand::Alter { retention, .. }) = parse(line).command else {
        panic!()
    };
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    let expected =
        RetentionChange { keep: Some(Keep::All), age_max: Some(Some(week)), bytes_max: Some(None) };
    assert_eq!(retention.change(), expected);
    let Command::Channel(ChannelCommand::Create { from, .. }) =
        parse("channel create t c --from latest").command
    else {
        panic!()
    };
    assert_eq!(from, StartAt::Latest);
    for line in [
        "topic list",
        "topic show t",
        "topic delete t",
        "topic pause t",
        "topic resume t",
        "channel list t",
        "channel show t c",
        "channel delete t c",
        "channel pause t c",
        "channel resume t c",
    ] {
        parse(line);
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_code_2() {
    for (line, kind) in [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("publish t", ErrorKind::InvalidSubcommand),
        ("pub a/b", ErrorKind::ValueValidation),
        ("pub t --header novalue", ErrorKind::ValueValidation),
        ("pub t --durability paper", ErrorKind::ValueValidation),
        ("pub t --nam p", ErrorKind::UnknownArgument),
        ("topic create t --keep some", ErrorKind::ValueValidation),
        ("topic alter t", ErrorKind::MissingRequiredArgument),
        ("topic alter t --age-max 10", ErrorKind::ValueValidation),
        ("topic alter t --age-max 0s", ErrorKind::ValueValidation),
        ("topic alter t --bytes-max 1KiB", ErrorKind::ValueValidation),
        ("sub t", ErrorKind::MissingRequiredArgument),
        ("sub t c --count 0", ErrorKind::ValueValidation),
        ("sub t c --credit 0", ErrorKind::ValueValidation),
        ("sub t c --from yesterday", ErrorKind::ValueValidation),
        ("sub t c --format xml", ErrorKind::InvalidValue),
        ("stats --timeout 10", ErrorKind::ValueValidation),
        ("stats --timeout 0s", ErrorKind::ValueValidation),
    ] {
        let error = refused(line);
        assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}: {error}");
    }
    let error = refused("pub t --nam p").to_string();
    assert!(error.contains("--name"), "{error}");
}

#[test]
fn what_was_mistyped_is_2_and_what_went_wrong_is_1() {
    let name = ltq_core::TopicName::new("a b").unwrap_err();
    assert_eq!(CliError::Request(name.into()).code(), 2);
    assert_eq!(CliError::Usage("x".to_owned()).code(), 2);
    assert_eq!(CliError::Failed("x".to_owned()).code(), 1);
    assert_eq!(CliError::Connect(ltq_client::ConnectError::Closed).code(), 1);
}

#[test]
fn help_is_whole_sentences_with_defaults() {
    fn every_argument(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path} has no help");
        for argument in command.get_arguments() {
            if ["help", "version"].contains(&argument.get_id().as_str()) {
                continue;
            }
            let help = argument.get_help().unwrap_or_else(|| panic!("{path} {argument}"));
            let help = help.to_string();
            let ends_well = help.ends_with('.') || help.ends_with(']');
            assert!(ends_well || help.lines().count() == 1, "{path} {argument}: {help:?}");
            assert!(help.chars().next().unwrap().is_uppercase(), "{path} {argument}: {help:?}");
        }
        for command in command.get_subcommands().filter(|c| c.get_name() != "help") {
            every_argument(command, &path);
        }
    }
    every_argument(&Cli::command(), "");
}
