{{ policy_backtest(by=['partner_id']) }}
