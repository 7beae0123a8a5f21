{{ policy_backtest() }}
